"""The settings of model calls."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from services.common.settings import CommaSeparated, CommonSettings, SettingsError

ProviderName = Literal["stub", "openai", "anthropic"]

OPENAI_ENDPOINT = "https://api.openai.com/v1"
ANTHROPIC_ENDPOINT = "https://api.anthropic.com/v1"


class ModelSettings(CommonSettings):
    """The provider, the public model, time-outs, prices, and how the stub behaves."""

    listen: str = Field(
        "127.0.0.1:8002",
        validation_alias="WEAVER_MODEL_LISTEN",
        description="Where the service listens for gRPC.",
    )
    metrics_listen: str = Field(
        "127.0.0.1:9466",
        validation_alias="WEAVER_MODEL_METRICS_LISTEN",
        description="Where the service serves Prometheus metrics; empty: nowhere.",
    )
    allowed_clients: CommaSeparated = Field(
        ("gateway",),
        validation_alias="WEAVER_MODEL_ALLOWED_CLIENTS",
        description="The services that may call, by the name in their certificate.",
    )
    audit_address: str = Field(
        "127.0.0.1:8003",
        validation_alias="WEAVER_AUDIT_ADDRESS",
        description="Where the audit service is; empty: the service's own events are not recorded.",
    )
    provider: ProviderName = Field(
        "stub",
        validation_alias="WEAVER_MODEL_PROVIDER",
        description=(
            "`stub` answers without a network, and production refuses it; `openai` is OpenAI's API "
            "and every server that speaks it; `anthropic` is Anthropic's, likewise. Whichever it "
            "is, clients reach it in both dialects."
        ),
    )
    model_name: str = Field(
        "stub-model",
        min_length=1,
        max_length=200,
        validation_alias="WEAVER_MODEL_NAME",
        description="The model, as clients and the provider call it. All but `stub` must set it.",
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_MODEL_API_KEY",
        description="The provider's key. The vendors' own endpoints must have one.",
    )
    endpoint: str = Field(
        "",
        validation_alias="WEAVER_MODEL_ENDPOINT",
        description=(
            "The provider's base URL, its version included, such as https://api.openai.com/v1; "
            "empty: the vendor's own."
        ),
    )
    connect_timeout_ms: int = Field(
        5_000,
        ge=1,
        le=600_000,
        validation_alias="WEAVER_MODEL_CONNECT_TIMEOUT_MS",
        description="Until a connection to the provider stands, TLS included.",
    )
    first_byte_timeout_ms: int = Field(
        60_000,
        ge=1,
        le=3_600_000,
        validation_alias="WEAVER_MODEL_FIRST_BYTE_TIMEOUT_MS",
        description="Until the provider's response headers, or a stream's first event, are here.",
    )
    idle_timeout_ms: int = Field(
        60_000,
        ge=1,
        le=3_600_000,
        validation_alias="WEAVER_MODEL_IDLE_TIMEOUT_MS",
        description="How long a provider may pause in the middle of an answer.",
    )
    retries: int = Field(
        2,
        ge=0,
        le=10,
        validation_alias="WEAVER_MODEL_RETRIES",
        description=(
            "Further tries at a provider that cannot be reached, throttles or answers with a "
            "server error, inside the caller's deadline and before the first byte."
        ),
    )
    max_answer_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        le=28 * 1024 * 1024,
        validation_alias="WEAVER_MODEL_MAX_ANSWER_BYTES",
        description="The longest answer that is accepted from a provider.",
    )
    max_connections: int = Field(
        1_000,
        ge=1,
        le=100_000,
        validation_alias="WEAVER_MODEL_MAX_CONNECTIONS",
        description="Connections to a provider at once.",
    )
    stream_usage: bool = Field(
        default=True,
        validation_alias="WEAVER_MODEL_STREAM_USAGE",
        description=(
            "Ask the provider for a stream's usage when the client did not. `false` is for servers "
            "that refuse `stream_options`; usage is then estimated."
        ),
    )
    context_tokens: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MODEL_CONTEXT_TOKENS",
        description="Tokens of prompt and answer together that the model takes; 0: not known.",
    )
    max_output_tokens: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MODEL_MAX_OUTPUT_TOKENS",
        description="The most tokens that an answer of the model can have; 0: not known.",
    )
    input_price_micros: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MODEL_INPUT_PRICE_MICROS",
        description="Price of a million prompt tokens, in millionths of the account's currency.",
    )
    output_price_micros: int = Field(
        0,
        ge=0,
        validation_alias="WEAVER_MODEL_OUTPUT_PRICE_MICROS",
        description="Price of a million answer tokens, in millionths of the account's currency.",
    )
    stub_latency_ms: int = Field(
        0,
        ge=0,
        le=600_000,
        validation_alias="WEAVER_STUB_LATENCY_MS",
        description="How long the stub provider waits before it answers.",
    )
    stub_tokens: int = Field(
        16,
        ge=1,
        le=100_000,
        validation_alias="WEAVER_STUB_TOKENS",
        description="How many words the stub provider answers with.",
    )
    stub_chunk_delay_ms: int = Field(
        0,
        ge=0,
        le=600_000,
        validation_alias="WEAVER_STUB_CHUNK_DELAY_MS",
        description="How long the stub provider waits before each further event of a stream.",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = "must be an http or https URL, such as https://api.openai.com/v1"
            raise ValueError(msg)
        if parts.username or parts.password or parts.query or parts.fragment:
            msg = "must hold no credentials, query or fragment"
            raise ValueError(msg)
        return value.rstrip("/")

    @property
    def base_url(self) -> str:
        """The provider's base URL, version included; Anthropic's clients write it without."""
        if self.provider != "anthropic":
            return self.endpoint or OPENAI_ENDPOINT
        return self.endpoint.removesuffix("/v1") + "/v1" if self.endpoint else ANTHROPIC_ENDPOINT

    def check(self) -> None:
        """Refuse what cannot work, and in production what answers without a provider.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        if self.provider == "stub":
            if self.production:
                msg = "WEAVER_MODEL_PROVIDER: production refuses the stub; name a real provider."
                raise SettingsError(msg)
            return
        if "model_name" not in self.model_fields_set:
            msg = "WEAVER_MODEL_NAME: required; the name of the provider's model."
            raise SettingsError(msg)
        own = self.base_url in {OPENAI_ENDPOINT, ANTHROPIC_ENDPOINT}
        if own and not self.api_key.get_secret_value():
            msg = "WEAVER_MODEL_API_KEY: required; the vendor answers nobody without a key."
            raise SettingsError(msg)
