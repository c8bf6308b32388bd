"""What the settings of all services share: the environment, secrets from files, clear refusals.

Every service has one frozen class of settings, built in its `__main__` and nowhere else.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Environment = Literal["development", "staging", "production"]


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


_LAST_PORT = 65535

CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A list that the environment holds as `a,b,c`."""


class SettingsError(Exception):
    """A setting is missing or bad; the message is for the operator and names the variable."""


class CommonSettings(BaseSettings):
    """The settings that every service has."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    environment: Environment = Field(
        default="development",
        validation_alias="ENVIRONMENT",
        description="`production` refuses development conveniences; `development` offers them.",
    )
    state_dir: Path = Field(
        default=Path(".weaver"),
        validation_alias="WEAVER_STATE_DIR",
        description="Where keys, certificates and the audit log lie when no path is set.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO",
        validation_alias="LOG_LEVEL",
        description="The least severe log line to write.",
    )
    telemetry_enabled: bool = Field(
        default=False,
        validation_alias="WEAVER_TELEMETRY_ENABLED",
        description="Send traces by OTLP. Prometheus metrics do not depend on it.",
    )
    telemetry_endpoint: str = Field(
        default="http://localhost:4317",
        validation_alias="WEAVER_TELEMETRY_ENDPOINT",
        description=(
            "The collector: port 4317 is OTLP over gRPC, another port or none OTLP over HTTP. "
            "`OTEL_EXPORTER_OTLP_HEADERS` and `…_CERTIFICATE` are read as everywhere."
        ),
    )
    telemetry_sample_ratio: float = Field(
        default=1.0,
        ge=0,
        le=1,
        validation_alias="WEAVER_TELEMETRY_SAMPLE_RATIO",
        description="The share of requests that are traced. The front door decides for all hops.",
    )
    telemetry_callers_decide: bool = Field(
        default=False,
        validation_alias="WEAVER_TELEMETRY_CALLERS_DECIDE",
        description=(
            "Whether a caller's `traceparent` also says if the request is traced. Its trace is "
            "continued either way; anyone could have everything traced."
        ),
    )
    telemetry_queue_spans: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        validation_alias="WEAVER_TELEMETRY_QUEUE_SPANS",
        description="Spans that wait for the collector at most, in each service; more are dropped.",
    )
    telemetry_metrics_seconds: float = Field(
        default=15.0,
        ge=0,
        le=3600,
        validation_alias="WEAVER_TELEMETRY_METRICS_SECONDS",
        description=(
            "How often metrics go to the collector too, cumulative, so that one that was away "
            "misses nothing; 0: never."
        ),
    )
    otel_service_name: str = Field(
        default="weaver",
        validation_alias="OTEL_SERVICE_NAME",
        description="`service.namespace`, and the prefix of each `service.name`.",
    )
    otel_service_version: str = Field(
        default="0.1.0", validation_alias="OTEL_SERVICE_VERSION", description="`service.version`."
    )
    mtls_enabled: bool = Field(
        default=True,
        validation_alias="WEAVER_MTLS_ENABLED",
        description="Mutual TLS between services. `false` is for development; production refuses.",
    )
    tls_dir: Path | None = Field(
        default=None,
        validation_alias="WEAVER_TLS_DIR",
        description=(
            "Holds `ca.pem`, `<service>.pem` and `<service>-key.pem`; read again when renewed. "
            "Unset: `tls/` in the state directory, made on first start; production must set it."
        ),
    )
    drain_seconds: float = Field(
        default=10.0,
        ge=0,
        le=600,
        validation_alias="WEAVER_DRAIN_SECONDS",
        description="How long calls in flight may go on after SIGTERM.",
    )
    drain_notice_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        validation_alias="WEAVER_DRAIN_NOTICE_SECONDS",
        description=(
            "How long before that a service says that it leaves and still takes calls, so that "
            "those who call it find another first. `weaver up` does not wait."
        ),
    )
    connection_age_seconds: float = Field(
        default=1800.0,
        ge=1,
        le=86_400,
        validation_alias="WEAVER_CONNECTION_AGE_SECONDS",
        description=(
            "How old a connection to a service gets. Its client then looks up the address anew, so "
            "this is how long a new replica waits for its share of the calls."
        ),
    )

    @property
    def production(self) -> bool:
        """Whether development conveniences are refused."""
        return self.environment == "production"

    @property
    def tls_path(self) -> Path:
        """The directory of certificates, set or default."""
        return self.tls_dir or self.state_dir / "tls"

    def check(self) -> None:
        """Refuse what production must not run with; services add their own.

        Raises:
            SettingsError: naming the variable.
        """
        if not self.production:
            return
        if not self.mtls_enabled:
            msg = "WEAVER_MTLS_ENABLED: mutual TLS cannot be switched off in production."
            raise SettingsError(msg)
        if self.tls_dir is None:
            msg = "WEAVER_TLS_DIR: production needs certificates of its own; set the directory."
            raise SettingsError(msg)


Settings = TypeVar("Settings", bound=CommonSettings)


def load(kind: type[Settings], **overrides: Any) -> Settings:  # noqa: ANN401 - any setting's value
    """Read a service's settings from the environment and check them.

    Each secret can also come from a file: `NAME_FILE` holds the path of what `NAME` would hold.

    Raises:
        SettingsError: a variable is missing or bad; the message names it and never its value.
    """
    from_files = _secrets_from_files(kind)
    try:
        settings = kind(**{**from_files, **overrides})
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("\n".join(lines)) from None
    settings.check()
    return settings


def load_or_exit(kind: type[Settings], **overrides: Any) -> Settings:  # noqa: ANN401
    """Read a service's settings, or end the process with status 2 and a sentence."""
    try:
        return load(kind, **overrides)
    except SettingsError as error:
        sys.stderr.write(f"weaver: cannot start: {error}\n")
        raise SystemExit(2) from None


def pem(value: SecretStr | str) -> bytes:
    r"""Return a PEM value as bytes, with `\n` written out turned into line ends."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return text.replace("\\n", "\n").encode()


def split_address(address: str, variable: str) -> tuple[str, int]:
    """Return host and port of `host:port`; IPv6 hosts stand in brackets.

    Raises:
        SettingsError: it is neither; the message names the variable.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        msg = f"{variable}: {address!r} is not host:port."
        raise SettingsError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)


def _secrets_from_files(kind: type[CommonSettings]) -> dict[str, str]:
    values: dict[str, str] = {}
    for field in kind.model_fields.values():
        name = str(field.validation_alias)
        path = os.environ.get(f"{name}_FILE")
        if path is None:
            continue
        if name in os.environ:
            msg = f"{name} and {name}_FILE are both set; keep one."
            raise SettingsError(msg)
        try:
            values[name] = Path(path).read_text().rstrip("\n")
        except OSError as error:
            msg = f"{name}_FILE: cannot read {path}: {error.strerror}"
            raise SettingsError(msg) from None
        except UnicodeDecodeError:
            msg = (
                f"{name}_FILE: {path} holds no text; a key must be in PEM "
                f"(`openssl pkey -inform DER` turns DER into it)."
            )
            raise SettingsError(msg) from None
    return values
