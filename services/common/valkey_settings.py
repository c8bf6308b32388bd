"""Where Valkey or Redis is, as the services that use it are told, and how to get there."""

import ssl
from pathlib import Path

from pydantic import Field, SecretStr

from services.common.settings import CommaSeparated, CommonSettings, SettingsError, split_address
from services.common.valkey import Address
from services.common.valkey_location import Fixed, Location, Sentinels

SENTINEL_TIMEOUT_S = 0.25


class StoreSettings(CommonSettings):
    """The settings of those who use the store."""

    redis_host: str = Field(
        "localhost",
        validation_alias="REDIS_HOST",
        description="Host of Valkey or Redis; production must set it or the Unix socket.",
    )
    redis_port: int = Field(
        6379, ge=1, le=65_535, validation_alias="REDIS_PORT", description="Its TCP port."
    )
    redis_unix_socket: Path | None = Field(
        None,
        validation_alias="REDIS_UNIX_SOCKET",
        description="Path of its Unix socket, instead of host and port.",
    )
    redis_username: str = Field(
        "",
        validation_alias="REDIS_USERNAME",
        description="Its user for access control lists; empty: the default user.",
    )
    redis_password: SecretStr = Field(
        SecretStr(""),
        validation_alias="REDIS_PASSWORD",
        description="Its password; empty: none.",
    )
    redis_db: int = Field(
        0, ge=0, validation_alias="REDIS_DB", description="The number of its database."
    )
    redis_tls: bool = Field(
        default=False,
        validation_alias="REDIS_TLS",
        description="Reach it by TLS and verify its certificate.",
    )
    redis_tls_ca: Path | None = Field(
        None,
        validation_alias="REDIS_TLS_CA",
        description="The CA that signed its certificate; unset: the system's.",
    )

    redis_sentinels: CommaSeparated = Field(
        (),
        validation_alias="REDIS_SENTINELS",
        description="`host:port` of each sentinel; then they say where the master is.",
    )
    redis_sentinel_master: str = Field(
        "mymaster",
        validation_alias="REDIS_SENTINEL_MASTER",
        description="The name that the sentinels watch the master by.",
    )
    redis_sentinel_password: SecretStr = Field(
        SecretStr(""),
        validation_alias="REDIS_SENTINEL_PASSWORD",
        description="The sentinels' own password; empty: none.",
    )

    @property
    def store_is_named(self) -> bool:
        """Whether somebody said where the store is; else it is the default on this machine."""
        where = {"redis_host", "redis_unix_socket", "redis_sentinels"}
        return bool(where & self.model_fields_set)

    def check(self) -> None:
        """Refuse what cannot be an address.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        for sentinel in self.redis_sentinels:
            split_address(sentinel, "REDIS_SENTINELS")


def location(settings: StoreSettings, *, client: str, timeout_s: float) -> Location:
    """Return what knows where the store is.

    Args:
        settings: which say so.
        client: our name in the store's list of clients.
        timeout_s: how long one exchange with the store may take.

    Raises:
        SettingsError: the store's CA cannot be read.
    """
    store = address(settings, client=client)
    if not settings.redis_sentinels:
        return Fixed(store)
    places = [split_address(text, "REDIS_SENTINELS") for text in settings.redis_sentinels]
    password = settings.redis_sentinel_password.get_secret_value()
    return Sentinels(
        [
            Address(host, port, password=password, tls=store.tls, client=client)
            for host, port in places
        ],
        settings.redis_sentinel_master,
        store,
        timeout_s=max(timeout_s, SENTINEL_TIMEOUT_S),
    )


def address(settings: StoreSettings, *, client: str) -> Address:
    """Return where the store is, or how to get in where sentinels say where.

    Raises:
        SettingsError: the store's CA cannot be read.
    """
    tls = None
    if settings.redis_tls and settings.redis_unix_socket is None:
        try:
            tls = ssl.create_default_context(cafile=settings.redis_tls_ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"REDIS_TLS_CA: cannot use {settings.redis_tls_ca}: {error}"
            raise SettingsError(msg) from None
    return Address(
        host=settings.redis_host,
        port=settings.redis_port,
        unix_socket=settings.redis_unix_socket,
        database=settings.redis_db,
        username=settings.redis_username,
        password=settings.redis_password.get_secret_value(),
        tls=tls,
        client=client,
    )
