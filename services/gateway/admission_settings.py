"""How much the gateway lets in at once."""

from pydantic import Field

from services.common.settings import CommonSettings


class AdmissionSettings(CommonSettings):
    """The settings of `services.gateway.admission`."""

    max_in_flight: int = Field(
        2048,
        ge=1,
        le=100_000,
        validation_alias="WEAVER_MAX_IN_FLIGHT",
        description=(
            "Requests in flight at once in one gateway, streams too; more get 503. One caller "
            "alone gets eight of nine places."
        ),
    )
    max_in_flight_per_caller: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MAX_IN_FLIGHT_PER_CALLER",
        description=(
            "The same for each caller, with 429; 0: its share of what is free. "
            "`WEAVER_RATELIMIT_CONCURRENCY` holds across all gateways."
        ),
    )
    max_in_flight_bytes: int = Field(
        512 * 1024 * 1024,
        ge=1024 * 1024,
        validation_alias="WEAVER_MAX_IN_FLIGHT_BYTES",
        description="The bodies of the requests in flight in one gateway; more get 503.",
    )
    shed_delay_ms: int = Field(
        1_000,
        ge=0,
        le=60_000,
        validation_alias="WEAVER_SHED_DELAY_MS",
        description=(
            "When every call waits longer than this before it reaches its provider, fewer are let "
            "in, in milliseconds; 0 switches that off."
        ),
    )
