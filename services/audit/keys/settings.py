"""Where the settings say that signing keys are from."""

import socket
from pathlib import Path

from pydantic import SecretStr

from services.audit.keys.files import ED25519_FILE, RSA_FILE, previous_file
from services.audit.keys.provenance import Provenance
from services.audit.keys.source import KeySource, Value
from services.audit.note import Algorithm
from services.audit.settings import AuditSettings
from services.common.settings import pem

RSA_VARIABLE = "WEAVER_TELEMETRY_SIGNING_KEY"
PUBLIC_VARIABLE = "WEAVER_TELEMETRY_VERIFICATION_KEY"
ED25519_VARIABLE = "WEAVER_AUDIT_ED25519_KEY"


def sources(settings: AuditSettings, *, made_time: str) -> list[KeySource]:
    """Return where the keys are from: RSA unless switched off, then Ed25519.

    Args:
        settings: the settings.
        made_time: what to state of a key that is made on first start.
    """
    made = Provenance("weaver serve audit", socket.gethostname(), made_time, "first start")
    found = [_ed25519(settings, made)]
    if settings.signing_enabled:
        found.insert(0, _rsa(settings, made))
    return found


def _rsa(settings: AuditSettings, made: Provenance) -> KeySource:
    passphrase = _value(
        f"{RSA_VARIABLE}_PASSPHRASE",
        settings.signing_key_passphrase,
        settings.signing_key_passphrase_file,
    )
    previous = _value(
        f"{RSA_VARIABLE}_PREVIOUS",
        settings.signing_key_previous,
        settings.signing_key_previous_file,
    )
    public = _value(
        PUBLIC_VARIABLE, settings.verification_key, settings.verification_key_file, secret=False
    )
    private = _private(
        settings, RSA_VARIABLE, settings.signing_key, settings.signing_key_file, RSA_FILE
    )
    return _source(settings, "RSA", private, public, passphrase, previous, made)


def _ed25519(settings: AuditSettings, made: Provenance) -> KeySource:
    passphrase = _value(
        f"{ED25519_VARIABLE}_PASSPHRASE",
        settings.ed25519_key_passphrase,
        settings.ed25519_key_passphrase_file,
    )
    previous = _value(
        f"{ED25519_VARIABLE}_PREVIOUS",
        settings.ed25519_key_previous,
        settings.ed25519_key_previous_file,
    )
    private = _private(
        settings, ED25519_VARIABLE, settings.ed25519_key, settings.ed25519_key_file, ED25519_FILE
    )
    return _source(settings, "Ed25519", private, None, passphrase, previous, made)


def _source(  # noqa: PLR0913, PLR0917 - what belongs to a key
    settings: AuditSettings,
    algorithm: Algorithm,
    private: Value,
    public: Value | None,
    passphrase: Value | None,
    previous: Value | None,
    made: Provenance,
) -> KeySource:
    if previous is None and private.path is not None:
        beside = previous_file(private.path)
        previous = Value(str(beside), path=beside, optional=True)
    return KeySource(
        algorithm=algorithm,
        origin=settings.log_origin,
        private=private,
        public=public,
        passphrase=passphrase,
        previous=previous,
        production=settings.production,
        make=private.source == str(private.path),
        made=made,
        variable=RSA_VARIABLE if algorithm == "RSA" else ED25519_VARIABLE,
    )


def _private(
    settings: AuditSettings, name: str, text: SecretStr | None, path: Path | None, file: str
) -> Value:
    """Return where a private key is; where nothing is set, in the state directory."""
    if path is not None:
        return Value(f"{name}_FILE", path=path)
    if text is not None:
        return Value(name, text=pem(text))
    made = settings.keys_path / file
    return Value(str(made), path=made)


def _value(
    name: str, text: SecretStr | None, path: Path | None, *, secret: bool = True
) -> Value | None:
    if path is not None:
        return Value(f"{name}_FILE", path=path, secret=secret)
    if text is None or not text.get_secret_value().strip():
        return None
    plain = name.endswith("_PASSPHRASE")
    return Value(name, text=text.get_secret_value().encode() if plain else pem(text), secret=secret)
