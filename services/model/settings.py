"""The settings of model calls."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator

from services.common.settings import CommaSeparated, CommonSettings, SettingsError
from services.model.cache.settings import CacheSettings
from services.model.credential import is_sendable
from services.model.declaration import Kind
from services.model.route_file import ENDPOINTS, check_endpoint


class ModelSettings(CacheSettings, CommonSettings):
    """The providers, the public models, time-outs, prices, and how the stub behaves."""

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
    health_listen: str = Field(
        "",
        validation_alias="WEAVER_MODEL_HEALTH_LISTEN",
        description=(
            "Where health checks, and nothing else, are answered without TLS: `host:port`; empty: "
            "nowhere. In containers 0.0.0.0:9476."
        ),
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
    provider: Kind = Field(
        "stub",
        validation_alias="WEAVER_MODEL_PROVIDER",
        description=(
            "`stub` answers without a network, and production refuses it; `openai` is OpenAI's API "
            "and every server that speaks it; `azure` is OpenAI's at Azure; `anthropic` is "
            "Anthropic's."
        ),
    )
    model_name: str = Field(
        "stub-model",
        min_length=1,
        max_length=200,
        validation_alias="WEAVER_MODEL_NAME",
        description="The model, as clients and the provider call it. All but the stub must set it.",
    )
    api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_MODEL_API_KEY",
        description="The provider's key. The vendors' own endpoints must have one.",
    )
    api_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_MODEL_API_KEY_FILE",
        description="A file that holds the key instead; read again when it is rotated.",
    )
    endpoint: str = Field(
        "",
        validation_alias="WEAVER_MODEL_ENDPOINT",
        description=(
            "The provider's base URL, its version included; empty: the vendor's own. Azure's is "
            "`https://<resource>.openai.azure.com`."
        ),
    )
    api_version: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,40}$",
        validation_alias="WEAVER_MODEL_API_VERSION",
        description=(
            "Azure's `api-version`; empty: 2024-10-21. Setting it makes `openai` mean `azure`."
        ),
    )
    fallback_provider: Literal["", "stub", "openai", "azure", "anthropic"] = Field(
        "",
        validation_alias="WEAVER_MODEL_FALLBACK_PROVIDER",
        description="The provider that is asked when the first one fails; empty: none.",
    )
    fallback_name: str = Field(
        "",
        max_length=200,
        validation_alias="WEAVER_MODEL_FALLBACK_NAME",
        description="The model, as the fallback provider calls it.",
    )
    fallback_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="WEAVER_MODEL_FALLBACK_API_KEY",
        description="The fallback provider's key.",
    )
    fallback_api_key_file: Path | None = Field(
        None,
        validation_alias="WEAVER_MODEL_FALLBACK_API_KEY_FILE",
        description="A file that holds the key instead; read again when it is rotated.",
    )
    fallback_endpoint: str = Field(
        "",
        validation_alias="WEAVER_MODEL_FALLBACK_ENDPOINT",
        description="The fallback provider's base URL; empty: the vendor's own.",
    )
    fallback_api_version: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,40}$",
        validation_alias="WEAVER_MODEL_FALLBACK_API_VERSION",
        description="Azure's `api-version`, as WEAVER_MODEL_API_VERSION.",
    )
    fallback_input_price_micros: int = Field(
        0,
        ge=0,
        le=10**12,
        validation_alias="WEAVER_MODEL_FALLBACK_INPUT_PRICE_MICROS",
        description="Price of a million prompt tokens at the fallback provider.",
    )
    fallback_output_price_micros: int = Field(
        0,
        ge=0,
        le=10**12,
        validation_alias="WEAVER_MODEL_FALLBACK_OUTPUT_PRICE_MICROS",
        description="Price of a million answer tokens at the fallback provider.",
    )
    routes_file: Path | None = Field(
        None,
        validation_alias="WEAVER_MODEL_ROUTES_FILE",
        description=(
            "YAML with further providers and public models (docs/operations/models.md); read again "
            "when it changes. With it, WEAVER_MODEL_PROVIDER may be left out."
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
        description="Calls at a target at once, each on a connection of its own.",
    )
    queue: int = Field(
        100,
        ge=0,
        le=100_000,
        validation_alias="WEAVER_MODEL_QUEUE",
        description="Calls that may wait for a place at a target; more are refused with 503.",
    )
    queue_wait_ms: int = Field(
        1_000,
        ge=1,
        le=600_000,
        validation_alias="WEAVER_MODEL_QUEUE_WAIT_MS",
        description="How long a call may wait for a place at a target.",
    )
    breaker_failures: int = Field(
        10,
        ge=0,
        le=10_000,
        validation_alias="WEAVER_MODEL_BREAKER_FAILURES",
        description=(
            "Failures in a row after which a target rests; half of the last 20 or more tries also "
            "do. 0: no target ever rests."
        ),
    )
    breaker_open_ms: int = Field(
        2_000,
        ge=10,
        le=60_000,
        validation_alias="WEAVER_MODEL_BREAKER_OPEN_MS",
        description="How long a target rests at first, up to a minute when its probes fail.",
    )
    stream_usage: bool = Field(
        default=True,
        validation_alias="WEAVER_MODEL_STREAM_USAGE",
        description=(
            "Ask the provider for a stream's usage when the client did not. `false` is for servers "
            "that refuse `stream_options`; usage is then estimated."
        ),
    )
    output_limit: Literal["", "max_tokens", "max_completion_tokens"] = Field(
        "",
        validation_alias="WEAVER_MODEL_OUTPUT_LIMIT",
        description=(
            "How Anthropic's `max_tokens` is called at a provider with OpenAI's API; empty: "
            "`max_completion_tokens` at OpenAI and Azure, `max_tokens` elsewhere."
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

    @field_validator("endpoint", "fallback_endpoint")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        return check_endpoint(value) if value else value

    @property
    def declares_model(self) -> bool:
        """Whether the environment declares a public model beside the route file's."""
        return self.routes_file is None or "provider" in self.model_fields_set

    def check(self) -> None:
        """Refuse what cannot work, and in production what answers without a provider.

        Raises:
            SettingsError: naming the variable.
        """
        super().check()
        self.check_cache()
        if self.declares_model:
            self._check("", self.provider, self.endpoint, self.api_key, "model_name")
        if self.fallback_provider:
            if not self.declares_model:
                msg = "WEAVER_MODEL_FALLBACK_PROVIDER: belongs to WEAVER_MODEL_PROVIDER; set both."
                raise SettingsError(msg)
            self._check(
                "FALLBACK_",
                self.fallback_provider,
                self.fallback_endpoint,
                self.fallback_api_key,
                "fallback_name",
            )
            return
        for name in ("fallback_name", "fallback_api_key", "fallback_endpoint"):
            value = getattr(self, name)
            if value.get_secret_value() if isinstance(value, SecretStr) else value:
                msg = f"WEAVER_MODEL_{name.upper()}: needs WEAVER_MODEL_FALLBACK_PROVIDER."
                raise SettingsError(msg)

    def _check(self, part: str, kind: str, endpoint: str, key: SecretStr, name: str) -> None:
        if kind == "stub":
            if self.production:
                msg = (
                    f"WEAVER_MODEL_{part}PROVIDER: production refuses the stub; "
                    "name a real provider."
                )
                raise SettingsError(msg)
            return
        if name not in self.model_fields_set or not getattr(self, name):
            msg = f"WEAVER_MODEL_{part}NAME: required; the name of the provider's model."
            raise SettingsError(msg)
        if kind == "azure" and not endpoint:
            msg = f"WEAVER_MODEL_{part}ENDPOINT: required; https://<resource>.openai.azure.com"
            raise SettingsError(msg)
        secret = key.get_secret_value().strip()
        if endpoint in {"", *ENDPOINTS.values()} and not secret:
            msg = f"WEAVER_MODEL_{part}API_KEY: required; the vendor answers nobody without a key."
            raise SettingsError(msg)
        if not is_sendable(secret):
            msg = f"WEAVER_MODEL_{part}API_KEY: must be one line of printable ASCII."
            raise SettingsError(msg)
