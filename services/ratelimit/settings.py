"""The settings of the limiter."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from services.common.settings import CommaSeparated, SettingsError
from services.common.valkey_settings import StoreSettings


class RatelimitSettings(StoreSettings):
    """The limits, the store that holds them, and what applies when it is down."""

    listen: str = Field(
        "127.0.0.1:8001",
        validation_alias="WEAVER_RATELIMIT_LISTEN",
        description="Where the limiter listens for gRPC.",
    )
    metrics_listen: str = Field(
        "127.0.0.1:9465",
        validation_alias="WEAVER_RATELIMIT_METRICS_LISTEN",
        description="Where the limiter serves Prometheus metrics; empty: nowhere.",
    )
    health_listen: str = Field(
        "",
        validation_alias="WEAVER_RATELIMIT_HEALTH_LISTEN",
        description=(
            "Where health checks, and nothing else, are answered without TLS: `host:port`; empty: "
            "nowhere. In containers 0.0.0.0:9475."
        ),
    )
    limit_clients: CommaSeparated = Field(
        ("gateway",),
        validation_alias="WEAVER_RATELIMIT_ALLOWED_CLIENTS",
        description="The services that may call the limiter, by the name in their certificate.",
    )
    audit_address: str = Field(
        "127.0.0.1:8003",
        validation_alias="WEAVER_AUDIT_ADDRESS",
        description="Where the audit service is found.",
    )
    rps: float = Field(
        5.0,
        ge=0.001,
        le=1_000_000,
        validation_alias="WEAVER_RATELIMIT_RPS",
        description="Requests per second that each principal may make in the long run.",
    )
    burst: int = Field(
        10,
        ge=1,
        le=1_000_000,
        validation_alias="WEAVER_RATELIMIT_BURST",
        description="Requests that a principal may make at once after a pause.",
    )
    tokens_per_minute: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        validation_alias="WEAVER_RATELIMIT_TOKENS_PER_MINUTE",
        description="Tokens (prompt and answer) per minute for each principal; 0: no limit.",
    )
    tokens_per_day: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        validation_alias="WEAVER_RATELIMIT_TOKENS_PER_DAY",
        description="Tokens per calendar day (UTC) for each principal; 0: no limit.",
    )
    cost_micros_per_day: int = Field(
        0,
        ge=0,
        le=10**15,
        validation_alias="WEAVER_RATELIMIT_COST_MICROS_PER_DAY",
        description=(
            "Money per calendar day (UTC) for each principal, in millionths of the currency of "
            "the price table; 0: no limit."
        ),
    )
    cost_micros_per_month: int = Field(
        0,
        ge=0,
        le=10**15,
        validation_alias="WEAVER_RATELIMIT_COST_MICROS_PER_MONTH",
        description="The same per calendar month (UTC).",
    )
    concurrency: int = Field(
        0,
        ge=0,
        le=1_000_000,
        validation_alias="WEAVER_RATELIMIT_CONCURRENCY",
        description="Requests in flight at once for each principal; 0: no limit.",
    )
    policy_file: Path | None = Field(
        None,
        validation_alias="WEAVER_RATELIMIT_POLICY_FILE",
        description=(
            "YAML with further rules, which come before those of the environment; read again when "
            "it changes."
        ),
    )
    address_rps: float = Field(
        0.0,
        ge=0,
        le=1_000_000,
        validation_alias="WEAVER_RATELIMIT_ADDRESS_RPS",
        description=(
            "Requests per second that Envoy lets in from each source address (IPv6: each /64) "
            "before authentication; 0: no limit. Set it for the front door too."
        ),
    )
    address_burst: int = Field(
        20,
        ge=1,
        le=1_000_000,
        validation_alias="WEAVER_RATELIMIT_ADDRESS_BURST",
        description="Requests that Envoy lets in from one source address at once.",
    )
    envoy_clients: CommaSeparated = Field(
        ("envoy",),
        validation_alias="WEAVER_RATELIMIT_ENVOY_CLIENTS",
        description=(
            "Who may ask by Envoy's rate limit protocol, by the name in their certificate; they "
            "may ask nothing else."
        ),
    )
    on_store_failure: Literal["local", "deny", "allow"] = Field(
        "local",
        validation_alias="WEAVER_RATELIMIT_ON_STORE_FAILURE",
        description=(
            "While the store is down: `local` enforces this replica's share in memory, `deny` "
            "refuses every request, `allow` admits every request."
        ),
    )
    replicas: int = Field(
        1,
        ge=1,
        le=10_000,
        validation_alias="WEAVER_RATELIMIT_REPLICAS",
        description=(
            "How many limiters at least share the limits while each is on its own (`local`). They "
            "count each other in the store; a larger count than this holds."
        ),
    )
    local_accounts: int = Field(
        100_000,
        ge=1,
        validation_alias="WEAVER_RATELIMIT_LOCAL_ACCOUNTS",
        description="Principals kept in memory at most (`local`); then the oldest goes.",
    )
    store_timeout_ms: int = Field(
        50,
        ge=1,
        le=10_000,
        validation_alias="WEAVER_RATELIMIT_STORE_TIMEOUT_MS",
        description="How long one exchange with the store may take.",
    )

    @property
    def allowed_clients(self) -> frozenset[str]:
        """Everyone who may call; the servicers say who may ask for what."""
        return frozenset({*self.limit_clients, *self.envoy_clients})

    def check(self) -> None:
        """Refuse what production must not run with.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        if self.production and not self.store_is_named:
            msg = "REDIS_HOST: production needs a shared store; set it, or REDIS_SENTINELS."
            raise SettingsError(msg)
