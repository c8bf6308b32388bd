"""The settings of API keys: those of the environment, and the store of managed ones."""

from typing import Annotated, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from services.common.settings import SettingsError
from services.common.valkey_settings import StoreSettings

SHORTEST_API_KEY = 20
DEVELOPMENT_KEY = "wv-dev-"
_PORT = 6379
_SCHEMES = ("redis", "rediss", "unix", "sentinel", "sentinels")
_FORMS = (
    "redis://[user:password@]host:port[/db], rediss://… for TLS (?ca=/path), unix:///path[?db=0], "
    "sentinel://[user:password@]host:port,host:port/master (sentinels://… for TLS)"
)

Names = Annotated[tuple[str, ...], NoDecode]


class ApiKeySettings(StoreSettings):
    """What the gateway reads of API keys from its environment."""

    allowed_api_keys: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_ALLOWED_API_KEYS",
        description="API keys that are accepted, with commas between; beside managed ones.",
    )
    api_key_roles: Names = Field(
        ("user",),
        validation_alias="WEAVER_API_KEY_ROLES",
        description="The roles of all of these API keys, with commas between.",
    )
    default_tenant: str = Field(
        "default",
        min_length=1,
        max_length=256,
        validation_alias="WEAVER_DEFAULT_TENANT",
        description="The tenant of API keys, and of tokens without a tenant claim.",
    )
    managed_api_keys: bool = Field(
        default=True,
        validation_alias="WEAVER_MANAGED_API_KEYS",
        description=(
            "Accept the keys that `weaver apikeys` makes, where WEAVER_AUTH_MODE has `api_key` and "
            "it is said where their store is."
        ),
    )
    api_key_store: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_API_KEY_STORE",
        description=(
            f"The store of managed API keys; unset: the one that REDIS_… names. Forms: {_FORMS}."
        ),
    )
    api_key_store_timeout_ms: int = Field(
        250,
        ge=10,
        le=10_000,
        validation_alias="WEAVER_API_KEY_STORE_TIMEOUT_MS",
        description="How long looking up a key that is not known yet may take, in milliseconds.",
    )
    api_key_stale_seconds: int = Field(
        3_600,
        ge=1,
        le=604_800,
        validation_alias="WEAVER_API_KEY_STALE_SECONDS",
        description="How long keys that are known go on while their store is down, in seconds.",
    )
    api_key_cache: int = Field(
        100_000,
        ge=100,
        le=2_000_000,
        validation_alias="WEAVER_API_KEY_CACHE",
        description="How many managed keys are remembered at most; each takes about 2 KB.",
    )

    @field_validator("api_key_roles", mode="before")
    @classmethod
    def _split_roles(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The API keys of the environment, in clear."""
        keys = self.allowed_api_keys.get_secret_value().split(",")
        return tuple(key.strip() for key in keys if key.strip())

    @property
    def manages_api_keys(self) -> bool:
        """Whether there is a store of managed keys."""
        named = self.store_is_named or bool(self.api_key_store.get_secret_value())
        return self.managed_api_keys and named

    @property
    def key_store(self) -> StoreSettings:
        """Where the store of managed keys is.

        Raises:
            SettingsError: the address is none.
        """
        url = self.api_key_store.get_secret_value()
        return _read(url) if url else self

    def check_api_keys(self, *, alone: bool) -> None:
        """Refuse what cannot work.

        Args:
            alone: whether nothing but API keys is accepted.

        Raises:
            SettingsError: naming the variable.
        """
        if self.api_key_store.get_secret_value():
            self.key_store.check()
        if alone and not self.api_keys and not self.manages_api_keys:
            msg = (
                "WEAVER_ALLOWED_API_KEYS: WEAVER_AUTH_MODE is `api_key`, so a key is needed: set "
                "it, or REDIS_HOST or WEAVER_API_KEY_STORE for managed keys."
            )
            raise SettingsError(msg)
        if self.production and any(_weak(key) for key in self.api_keys):
            msg = (
                "WEAVER_ALLOWED_API_KEYS: production refuses development keys and keys of under "
                f"{SHORTEST_API_KEY} characters; make one with `openssl rand -hex 32`."
            )
            raise SettingsError(msg)


def _weak(key: str) -> bool:
    return len(key) < SHORTEST_API_KEY or key.startswith(DEVELOPMENT_KEY)


def _read(url: str) -> StoreSettings:
    """Return what an address says; the message of a bad one never quotes it, for its password."""
    try:
        return StoreSettings(**_fields(url))
    except ValueError:
        msg = f"WEAVER_API_KEY_STORE: it is no address of a store; {_FORMS}."
        raise SettingsError(msg) from None


def _fields(url: str) -> dict[str, Any]:
    """Return the settings that an address stands for.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    scheme = parts.scheme
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    access, _, places = parts.netloc.rpartition("@")
    user, _, password = access.partition(":")
    found: dict[str, Any] = {
        "redis_host": "localhost",
        "redis_port": _PORT,
        "redis_unix_socket": None,
        "redis_sentinels": (),
        "redis_sentinel_password": options.pop("sentinel_password", ""),
        "redis_username": unquote(user),
        "redis_password": unquote(password),
        "redis_db": int(options.pop("db", "0")),
        "redis_tls": scheme in {"rediss", "sentinels"},
        "redis_tls_ca": options.pop("ca", None),
    }
    path = parts.path.removeprefix("/")
    if scheme == "unix":
        found["redis_unix_socket"] = parts.path
    elif scheme.startswith("sentinel"):
        if not path:
            raise ValueError(path)
        found |= {"redis_sentinels": tuple(places.split(",")), "redis_sentinel_master": path}
    else:
        found["redis_host"], found["redis_port"] = parts.hostname or "", parts.port or _PORT
        found["redis_db"] = int(path or "0")
    if options or scheme not in _SCHEMES or (scheme != "unix" and not places):
        raise ValueError(scheme)
    return found
