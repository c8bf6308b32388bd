"""Where a collector is, and what sends to it by OTLP: over gRPC, or over HTTP.

The exporters are OpenTelemetry's own, so their variables for headers and certificates
(`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_CERTIFICATE`) work as everywhere. They are
imported when they are needed: most processes run without a collector.
"""

import os
import socket
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from services.common.settings import CommonSettings, SettingsError

OTLP_GRPC_PORT: Final = 4317
EXPORT_TIMEOUT_S: Final = 3
_VARIABLE: Final = "WEAVER_TELEMETRY_ENDPOINT"
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Endpoint:
    """A collector.

    Attributes:
        host: its name or address.
        port: of it.
        secure: whether TLS is spoken.
        grpc: whether it takes OTLP over gRPC; else OTLP over HTTP.
        path: of the URL, without the signal's own part; "" for none.
    """

    host: str
    port: int
    secure: bool
    grpc: bool
    path: str = ""

    @property
    def address(self) -> str:
        """`host:port`, as a URL writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, signal: str) -> str:
        """Return where a signal (`traces`, `metrics`) is posted to."""
        scheme = "https" if self.secure else "http"
        return f"{scheme}://{self.address}{self.path}/v1/{signal}"


def endpoint(url: str) -> Endpoint:
    """Return the collector that a URL names: gRPC at port 4317, HTTP at any other and at none.

    Raises:
        SettingsError: it is no such URL.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.username:
        msg = (
            f"{_VARIABLE}: it must be a URL such as http://otel-collector:4317 (OTLP over gRPC), "
            "http://otel-collector:4318 or https://otel.example.com (OTLP over HTTP), without a "
            "user's name: credentials go into OTEL_EXPORTER_OTLP_HEADERS."
        )
        raise SettingsError(msg)
    path = parts.path.rstrip("/")
    for signal in ("/v1/traces", "/v1/metrics"):
        path = path.removesuffix(signal)
    return Endpoint(
        parts.hostname,
        port or _PORTS[parts.scheme],
        secure=parts.scheme == "https",
        grpc=port == OTLP_GRPC_PORT,
        path=path,
    )


def span_exporter(where: Endpoint) -> Any:  # noqa: ANN401 - an SDK type, imported when needed
    """Return what sends spans."""
    if where.grpc:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        return OTLPSpanExporter(
            endpoint=where.address, insecure=not where.secure, timeout=EXPORT_TIMEOUT_S
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as HTTPSpanExporter,
    )

    return HTTPSpanExporter(endpoint=where.url("traces"), timeout=EXPORT_TIMEOUT_S)


def metric_exporter(where: Endpoint) -> Any:  # noqa: ANN401 - an SDK type, imported when needed
    """Return what sends metrics."""
    if where.grpc:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter,
        )

        return OTLPMetricExporter(
            endpoint=where.address, insecure=not where.secure, timeout=EXPORT_TIMEOUT_S
        )
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
        OTLPMetricExporter as HTTPMetricExporter,
    )

    return HTTPMetricExporter(endpoint=where.url("metrics"), timeout=EXPORT_TIMEOUT_S)


def resource(settings: CommonSettings, name: str) -> dict[str, str]:
    """Return what says of whom spans and metrics are."""
    return {
        "service.namespace": settings.otel_service_name,
        "service.name": f"{settings.otel_service_name}-{name}",
        "service.version": settings.otel_service_version,
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        "deployment.environment.name": settings.environment,
    }
