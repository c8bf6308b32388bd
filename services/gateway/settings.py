"""The gateway's settings."""

from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.common.settings import SettingsError
from services.gateway.admission_settings import AdmissionSettings
from services.gateway.apikeys.settings import ApiKeySettings
from services.gateway.authorization_settings import AuthorizationSettings
from services.gateway.health_settings import HealthSettings
from services.gateway.redaction_settings import RedactionSettings
from services.gateway.token_settings import TokenSettings

MODES = frozenset(("api_key", "jwt"))

Names = Annotated[tuple[str, ...], NoDecode]


class GatewaySettings(
    ApiKeySettings,
    TokenSettings,
    AuthorizationSettings,
    AdmissionSettings,
    HealthSettings,
    RedactionSettings,
):
    """What the gateway reads from its environment."""

    listen: str = Field(
        "127.0.0.1:8000",
        validation_alias="WEAVER_GATEWAY_LISTEN",
        description="Where internal services reach the gateway, over TLS.",
    )
    edge_listen: str = Field(
        "",
        validation_alias="WEAVER_GATEWAY_EDGE_LISTEN",
        description=(
            "Where Envoy reaches the gateway: `unix:/path`, or `host:port` with mutual TLS. "
            "Empty: nowhere."
        ),
    )
    metrics_listen: str = Field(
        "127.0.0.1:9464",
        validation_alias="WEAVER_GATEWAY_METRICS_LISTEN",
        description="Where Prometheus metrics are served; empty switches them off.",
    )
    health_listen: str = Field(
        "",
        validation_alias="WEAVER_GATEWAY_HEALTH_LISTEN",
        description=(
            "Where health checks, and nothing else, are answered without TLS: `host:port`; empty: "
            "nowhere. In containers 0.0.0.0:9474."
        ),
    )
    ratelimit_address: str = Field(
        "127.0.0.1:8001",
        validation_alias="WEAVER_RATELIMIT_ADDRESS",
        description="Where the ratelimit service is.",
    )
    model_address: str = Field(
        "127.0.0.1:8002",
        validation_alias="WEAVER_MODEL_ADDRESS",
        description="Where the model service is.",
    )
    audit_address: str = Field(
        "127.0.0.1:8003",
        validation_alias="WEAVER_AUDIT_ADDRESS",
        description="Where the audit service is.",
    )
    auth_mode: Names = Field(
        ("api_key",),
        validation_alias="WEAVER_AUTH_MODE",
        description="`api_key`, `jwt`, or both with a comma between.",
    )
    request_max_tokens: int = Field(
        4096,
        ge=1,
        validation_alias="WEAVER_REQUEST_MAX_TOKENS",
        description="The most tokens that one answer may have.",
    )
    request_timeout_ms: int = Field(
        25_000,
        ge=100,
        le=600_000,
        validation_alias="WEAVER_REQUEST_TIMEOUT_MS",
        description="The most time that a whole answer may take, in milliseconds.",
    )
    stream_idle_timeout_ms: int = Field(
        90_000,
        ge=100,
        le=600_000,
        validation_alias="WEAVER_STREAM_IDLE_TIMEOUT_MS",
        description="How long a stream may say nothing, in milliseconds.",
    )
    ratelimit_timeout_ms: int = Field(
        1_000,
        ge=10,
        le=60_000,
        validation_alias="WEAVER_RATELIMIT_TIMEOUT_MS",
        description=(
            "How long the limiter may take to decide, in milliseconds; while none can be reached, "
            "as in a restart, calls wait up to five seconds more."
        ),
    )
    reservation_ms: int = Field(
        60_000,
        ge=1_000,
        le=3_600_000,
        validation_alias="WEAVER_RATELIMIT_RESERVATION_MS",
        description=(
            "How long what a dead gateway reserved stays reserved, in milliseconds; a live one "
            "renews after a third of it."
        ),
    )
    audit_timeout_ms: int = Field(
        2_000,
        ge=10,
        le=60_000,
        validation_alias="WEAVER_AUDIT_TIMEOUT_MS",
        description=(
            "How long one attempt to record may take, and how long a call waits for its intent, "
            "in milliseconds."
        ),
    )
    auditor_reads: Literal["records", "keys", "texts"] = Field(
        "texts",
        validation_alias="WEAVER_AUDIT_AUDITOR_READS",
        description=(
            "What the role `auditor` sees of others: their records, the keys of their "
            "commitments too, or captured texts too."
        ),
    )
    audit_capture: Literal["none", "redacted", "full"] = Field(
        "none",
        validation_alias="WEAVER_AUDIT_CAPTURE",
        description=(
            "Which prompts and answers are kept beside the log, sealed and erasable: none, as they "
            "left (`redacted`), or also as they came, personal data and all (`full`)."
        ),
    )
    audit_capture_max_bytes: int = Field(
        65_536,
        ge=1_024,
        le=1_048_576,
        validation_alias="WEAVER_AUDIT_CAPTURE_MAX_BYTES",
        description="How much of a prompt or an answer is captured at most, in bytes.",
    )
    audit_on_failure: Literal["deny", "allow"] = Field(
        "deny",
        validation_alias="WEAVER_AUDIT_ON_FAILURE",
        description=(
            "What happens to calls that the log cannot record: `deny` refuses them with 503; "
            "`allow` lets them through and counts them, and is refused in production."
        ),
    )
    model_name: str = Field(
        "stub-model",
        validation_alias="WEAVER_MODEL_NAME",
        description="The model of typed calls that name none.",
    )
    instance: str = Field(
        "",
        validation_alias="WEAVER_GATEWAY_INSTANCE",
        description="This process's name among the log's writers; empty: from the host's name.",
    )

    @field_validator("auth_mode", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("auth_mode")
    @classmethod
    def _known_modes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not MODES.issuperset(value):
            msg = "must be `api_key`, `jwt`, or both with a comma between"
            raise ValueError(msg)
        return value

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        if "jwt" in self.auth_mode:
            self.check_tokens()
        if "api_key" in self.auth_mode:
            self.check_api_keys(alone=self.auth_mode == ("api_key",))
        if self.production and self.audit_on_failure == "allow":
            msg = "WEAVER_AUDIT_ON_FAILURE: production records every call; `allow` is refused."
            raise SettingsError(msg)
