"""What a development environment needs and nobody set: the guide's defaults, keys, a token issuer.

A variable that is set always wins. Secrets are files below `<state>/keys`, readable by their owner
alone, and services get their paths and not their content. It refuses to work anywhere but in
development.
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from services.cli.ports import LISTEN_DEFAULTS
from services.common.files import replace_file
from services.common.settings import SettingsError

API_KEY = "dev-api-key"
JWT_KEY = "dev-jwt.pem"
JWT_PUBLIC_KEY = "dev-jwt.pub.pem"
JWT_ISSUER = "weaver-dev"
JWT_AUDIENCE = "weaver"
TOKEN_KEYS = ("WEAVER_JWT_PUBLIC_KEY", "WEAVER_JWT_KEYS_PATH", "WEAVER_JWT_JWKS_URL")
"""The variables of which any brings an issuer of its own."""

DEFAULTS = {
    "ENVIRONMENT": "development",
    "WEAVER_MODEL_PROVIDER": "stub",
    "WEAVER_RATELIMIT_RPS": "100",
    "WEAVER_RATELIMIT_BURST": "200",
    "WEAVER_AUTH_MODE": "api_key,jwt",
    "LOG_LEVEL": "INFO",
}


def refuse_elsewhere(environment: Mapping[str, str]) -> None:
    """Refuse an environment that is not for development.

    Raises:
        SettingsError: ENVIRONMENT says something else.
    """
    kind = environment.get("ENVIRONMENT", "development")
    if kind != "development":
        msg = (
            f"ENVIRONMENT: `weaver up` is a development environment and not for {kind}; "
            "run each service with `weaver serve`."
        )
        raise SettingsError(msg)


def defaults(environment: Mapping[str, str], state: Path, sockets: Path) -> dict[str, str]:
    """Return the variables to add to an environment; the key files they name must exist.

    Args:
        environment: what is set.
        state: the state directory.
        sockets: where the Unix sockets of this suite lie.
    """
    keys = (state / "keys").absolute()
    added = {**DEFAULTS, "WEAVER_STATE_DIR": str(state.absolute())}
    added["WEAVER_GATEWAY_EDGE_LISTEN"] = f"unix:{sockets / 'gateway.sock'}"
    if _is_set("WEAVER_MODEL_ROUTES", environment):
        # The file's models are enough.
        del added["WEAVER_MODEL_PROVIDER"]
    elif environment.get("WEAVER_MODEL_PROVIDER", "stub") == "stub":
        added["WEAVER_MODEL_NAME"] = "stub-model"
    if not _is_set("WEAVER_ALLOWED_API_KEYS", environment):
        added["WEAVER_ALLOWED_API_KEYS_FILE"] = str(keys / API_KEY)
    if not any(_is_set(name, environment) for name in TOKEN_KEYS):
        added["WEAVER_JWT_PUBLIC_KEY_FILE"] = str(keys / JWT_PUBLIC_KEY)
        added["WEAVER_JWT_ISSUER"] = JWT_ISSUER
        added["WEAVER_JWT_AUDIENCE"] = JWT_AUDIENCE
    for service in ("RATELIMIT", "MODEL", "AUDIT"):
        listen = f"WEAVER_{service}_LISTEN"
        added[f"WEAVER_{service}_ADDRESS"] = environment.get(listen, LISTEN_DEFAULTS[listen])
    return {name: value for name, value in added.items() if name not in environment}


def ensure_keys(state: Path) -> None:
    """Make the API key and the token issuer's key pair, each if it is not there."""
    keys = state / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    keys.chmod(0o700)
    if not (keys / API_KEY).exists():
        replace_file(keys / API_KEY, f"wv-dev-{secrets.token_urlsafe(24)}\n".encode(), 0o600)
    if not ((keys / JWT_KEY).exists() and (keys / JWT_PUBLIC_KEY).exists()):
        private, public = _new_pair()
        replace_file(keys / JWT_PUBLIC_KEY, public, 0o644)
        replace_file(keys / JWT_KEY, private, 0o600)


def api_key(state: Path) -> str:
    """Return the development API key.

    Raises:
        SettingsError: there is none yet.
    """
    path = state / "keys" / API_KEY
    try:
        return path.read_text().strip()
    except OSError:
        msg = f"no development key in {path}: start `weaver up` once, or set WEAVER_STATE_DIR."
        raise SettingsError(msg) from None


def _is_set(name: str, environment: Mapping[str, str]) -> bool:
    return name in environment or f"{name}_FILE" in environment


def _new_pair() -> tuple[bytes, bytes]:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - first start alone
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public
