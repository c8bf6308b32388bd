"""The settings of what the command line runs itself: Envoy, Valkey and `weaver up`."""

import re
from typing import Literal, Self

from pydantic import Field

from services.common.settings import CommaSeparated, CommonSettings, SettingsError, load

Target = Literal["local", "container"]

ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]+)?|\*")

CONTAINER_DEFAULTS = {
    "front_listen": "0.0.0.0:8443",
    "metrics_listen": "0.0.0.0:9902",
    "tls_dir": "/etc/weaver/tls",
    "ratelimit_address": "ratelimit:8001",
}


class EdgeSettings(CommonSettings):
    """What the Envoy configuration depends on."""

    front_listen: str = Field(
        "127.0.0.1:8443",
        validation_alias="WEAVER_FRONT_LISTEN",
        description="Where Envoy takes HTTPS and gRPC from outside. In containers 0.0.0.0:8443.",
    )
    admin_listen: str = Field(
        "127.0.0.1:9901",
        validation_alias="WEAVER_ENVOY_ADMIN_LISTEN",
        description="Envoy's admin interface; it can stop Envoy, so keep it on loopback.",
    )
    metrics_listen: str = Field(
        "",
        validation_alias="WEAVER_ENVOY_METRICS_LISTEN",
        description="Serves Envoy's `/metrics` and `/ready`; empty: off. Containers: 0.0.0.0:9902.",
    )
    gateway_address: str = Field(
        "gateway:8004",
        validation_alias="WEAVER_GATEWAY_EDGE_ADDRESS",
        description="Where Envoy in a container finds the gateways' edge listeners.",
    )
    edge_listen: str = Field(
        "",
        validation_alias="WEAVER_GATEWAY_EDGE_LISTEN",
        description="`unix:/path` where the gateway takes Envoy's calls on one machine.",
    )
    gateway_workers: int = Field(
        1,
        ge=1,
        le=64,
        validation_alias="WEAVER_GATEWAY_WORKERS",
        description=(
            "Gateway processes under `weaver up`; one for each processor that is free. Envoy "
            "spreads calls over them."
        ),
    )
    address_rps: float = Field(
        0.0,
        ge=0,
        validation_alias="WEAVER_RATELIMIT_ADDRESS_RPS",
        description=(
            "Above 0, Envoy asks the limiter before it lets a request in, for its source address. "
            "The limiter needs the same value."
        ),
    )
    ratelimit_address: str = Field(
        "127.0.0.1:8001",
        validation_alias="WEAVER_RATELIMIT_ADDRESS",
        description="Where Envoy finds the limiter. In containers ratelimit:8001.",
    )
    front_certificate: str = Field(
        "",
        validation_alias="WEAVER_FRONT_CERTIFICATE",
        description="The front door's certificate chain; unset: `front.pem` in the TLS directory.",
    )
    front_key: str = Field(
        "",
        validation_alias="WEAVER_FRONT_KEY",
        description="Its private key; unset: `front-key.pem` in the TLS directory.",
    )
    request_timeout_ms: int = Field(
        25_000,
        ge=100,
        validation_alias="WEAVER_REQUEST_TIMEOUT_MS",
        description="The deadline of a unary call; Envoy waits two seconds longer.",
    )
    request_max_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        le=30 * 1024 * 1024,
        validation_alias="WEAVER_REQUEST_MAX_BYTES",
        description="The largest request body; more is refused with 413.",
    )
    stream_idle_timeout_ms: int = Field(
        90_000,
        ge=100,
        validation_alias="WEAVER_STREAM_IDLE_TIMEOUT_MS",
        description="How long a stream may say nothing; Envoy waits half a minute longer.",
    )
    upload_timeout_s: float = Field(
        120.0,
        gt=0,
        validation_alias="WEAVER_EDGE_UPLOAD_SECONDS",
        description="How long a request may take to arrive whole.",
    )
    trusted_hops: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_EDGE_TRUSTED_HOPS",
        description="How many proxies in front of Envoy to believe in `x-forwarded-for`.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        validation_alias="WEAVER_EDGE_MAX_CONNECTIONS",
        description="Open connections at most; more are closed at once.",
    )
    max_requests: int = Field(
        8192,
        ge=1,
        validation_alias="WEAVER_EDGE_MAX_REQUESTS",
        description=(
            "Requests at all gateways together that one Envoy waits for; more get 503 from it, at "
            "less cost than from a gateway."
        ),
    )
    idle_timeout_s: float = Field(
        300.0,
        gt=0,
        validation_alias="WEAVER_EDGE_IDLE_SECONDS",
        description="How long a connection without a request is kept.",
    )
    cors_origins: CommaSeparated = Field(
        (),
        validation_alias="WEAVER_EDGE_CORS_ORIGINS",
        description=(
            "Web origins whose pages may call from a browser, such as `https://app.example`, with "
            "commas between; `*`: any. Empty: none."
        ),
    )
    concurrency: int = Field(
        1,
        ge=1,
        le=64,
        validation_alias="WEAVER_EDGE_CONCURRENCY",
        description="Envoy's worker threads under `weaver up`.",
    )
    max_heap_bytes: int = Field(
        2 * 1024**3,
        ge=64 * 1024**2,
        validation_alias="WEAVER_EDGE_MAX_HEAP_BYTES",
        description="Envoy's memory; from 95 % of it on, new requests are refused with 503.",
    )

    @property
    def edge_listens(self) -> tuple[str, ...]:
        """Where each gateway process on one machine takes Envoy's calls, the first one's first."""
        first = self.edge_listen
        more = range(2, self.gateway_workers + 1)
        stem = first.removesuffix(".sock")
        return (first, *(f"{stem}-{number}.sock" for number in more))

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        for origin in self.cors_origins:
            if not ORIGIN.fullmatch(origin):
                msg = (
                    f"WEAVER_EDGE_CORS_ORIGINS: `{origin}` is no origin; write scheme and host in "
                    "lower case and no path, such as `https://app.example`, or `*`."
                )
                raise SettingsError(msg)
        if self.production and "*" in self.cors_origins:
            msg = "WEAVER_EDGE_CORS_ORIGINS: production names its origins; `*` is refused."
            raise SettingsError(msg)

    @classmethod
    def for_target(cls, target: Target, **overrides: object) -> Self:
        """Read the settings, with the defaults of the target where nothing is set.

        Raises:
            SettingsError: a variable is missing or bad.
        """
        settings = load(cls, **overrides)
        if target == "local":
            return settings
        unset = {
            name: value
            for name, value in CONTAINER_DEFAULTS.items()
            if name not in settings.model_fields_set
        }
        return load(cls, **{**unset, **overrides})
