"""The settings of the exact cache, which is off."""

import base64
import binascii
import os
import ssl
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.common.settings import SettingsError, split_address
from services.common.valkey import Address
from services.model.cache.entry import KEY_BYTES

_MEBIBYTE: Final = 1024 * 1024


class CacheSettings(BaseSettings):
    """Whether answers are kept, where, how long and how many."""

    cache_enabled: bool = Field(
        default=False,
        validation_alias="WEAVER_MODEL_CACHE_ENABLED",
        description=(
            "Keep answers to deterministic requests for the caller who got them "
            "(docs/operations/cache.md)."
        ),
    )
    cache_address: str = Field(
        "",
        validation_alias="WEAVER_MODEL_CACHE_ADDRESS",
        description=(
            "The cache's own Valkey or Redis: `host:port`, or the path of a Unix socket. Required "
            "with the cache; `weaver up` starts one when it is empty."
        ),
    )
    cache_username: str = Field(
        "",
        validation_alias="WEAVER_MODEL_CACHE_USERNAME",
        description="Its user for access control lists; empty: the default user.",
    )
    cache_password: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_MODEL_CACHE_PASSWORD",
        description="Its password; empty: none.",
    )
    cache_db: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MODEL_CACHE_DB",
        description="The number of its database.",
    )
    cache_tls: bool = Field(
        default=False,
        validation_alias="WEAVER_MODEL_CACHE_TLS",
        description="Reach it by TLS and verify its certificate.",
    )
    cache_tls_ca: Path | None = Field(
        None,
        validation_alias="WEAVER_MODEL_CACHE_TLS_CA",
        description="The CA that signed its certificate; unset: the system's.",
    )
    cache_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_MODEL_CACHE_KEY",
        description=(
            "What seals the entries: 32 random bytes, hexadecimal or base64, the same for all "
            "replicas. Empty: a key for each process, whose entries end with it."
        ),
    )
    cache_ttl_seconds: int = Field(
        3_600,
        ge=1,
        le=30 * 86_400,
        validation_alias="WEAVER_MODEL_CACHE_TTL_SECONDS",
        description="How long an answer is kept.",
    )
    cache_max_entry_bytes: int = Field(
        256 * 1024,
        ge=1_024,
        le=8 * _MEBIBYTE,
        validation_alias="WEAVER_MODEL_CACHE_MAX_ENTRY_BYTES",
        description="The longest answer that is kept.",
    )
    cache_max_bytes: int = Field(
        256 * _MEBIBYTE,
        ge=4 * _MEBIBYTE,
        le=2**40,
        validation_alias="WEAVER_MODEL_CACHE_MAX_BYTES",
        description="How much memory the store may use; then nothing more is kept.",
    )
    cache_timeout_ms: int = Field(
        25,
        ge=1,
        le=1_000,
        validation_alias="WEAVER_MODEL_CACHE_TIMEOUT_MS",
        description="How long a call waits for the cache at most before it asks the provider.",
    )

    def check_cache(self) -> None:
        """Refuse a cache that cannot work.

        Raises:
            SettingsError: naming the variable.
        """
        if not self.cache_enabled:
            return
        if not self.cache_address:
            msg = (
                "WEAVER_MODEL_CACHE_ADDRESS: required with WEAVER_MODEL_CACHE_ENABLED; "
                "`host:port` of a store of its own, not the one of the limits."
            )
            raise SettingsError(msg)
        cache_place(self)
        cache_secret(self)


def cache_place(settings: CacheSettings) -> Address:
    """Return where the store is.

    Raises:
        SettingsError: naming the variable.
    """
    where = settings.cache_address
    socket = Path(where.removeprefix("unix:")) if where.startswith(("/", "unix:")) else None
    host, port = ("", 0) if socket else split_address(where, "WEAVER_MODEL_CACHE_ADDRESS")
    tls = None
    if settings.cache_tls and socket is None:
        try:
            tls = ssl.create_default_context(cafile=settings.cache_tls_ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"WEAVER_MODEL_CACHE_TLS_CA: cannot use {settings.cache_tls_ca}: {error}"
            raise SettingsError(msg) from None
    return Address(
        host,
        port,
        unix_socket=socket,
        database=settings.cache_db,
        username=settings.cache_username,
        password=settings.cache_password.get_secret_value(),
        tls=tls,
        client="weaver-model-cache",
    )


def cache_secret(settings: CacheSettings) -> bytes:
    """Return what seals entries, or a new one.

    Raises:
        SettingsError: it is not 32 bytes.
    """
    text = settings.cache_key.get_secret_value().strip()
    if not text:
        return os.urandom(KEY_BYTES)
    for decode in (bytes.fromhex, _base64):
        try:
            secret = decode(text)
        except ValueError:
            continue
        if len(secret) == KEY_BYTES:
            return secret
    msg = "WEAVER_MODEL_CACHE_KEY: must be 32 bytes in hexadecimal or base64: openssl rand -hex 32"
    raise SettingsError(msg)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError from error
