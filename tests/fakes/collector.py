"""A receiver of OTLP, over gRPC and over HTTP, as a collector is: it keeps what it is sent."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Received(NamedTuple):
    """A span, as it arrived."""

    service: str
    resource: dict[str, Any]
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    failed: bool


class CollectorFake:
    """Takes spans and metrics on two ports of this machine.

    Args:
        host: where to listen; each test has 127.x.y.z addresses of its own for the one gRPC port.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.spans: list[Received] = []
        self.metrics: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self._lock = threading.Lock()
        self._grpc = grpc.server(ThreadPoolExecutor(2))
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(_Traces(self), self._grpc)
        add = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        add(_Metrics(self), self._grpc)
        port = self._grpc.add_insecure_port(f"{host}:{4317 if host != '127.0.0.1' else 0}")
        self._grpc.start()
        self.grpc_url = f"http://{host}:{port}"
        self._http = ThreadingHTTPServer((host, 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.http_url = f"http://{host}:{self._http.server_port}"

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self._grpc.stop(0).wait()

    def take_spans(self, request: Any) -> None:
        """Keep what arrived."""
        with self._lock:
            for batch in request.resource_spans:
                about = _attributes(batch.resource.attributes)
                for scope in batch.scope_spans:
                    self.spans += [_received(about, span) for span in scope.spans]

    def take_metrics(self, request: Any) -> None:
        """Keep what arrived."""
        with self._lock:
            for batch in request.resource_metrics:
                about = _attributes(batch.resource.attributes)
                for scope in batch.scope_metrics:
                    self.metrics += [
                        {"service": about["service.name"], "metric": metric}
                        for metric in scope.metrics
                    ]

    def trace(self, trace_id: str) -> list[Received]:
        """Return the spans of one trace."""
        with self._lock:
            return [span for span in self.spans if span.trace_id == trace_id]

    def wait(self, condition: Callable[["CollectorFake"], object], seconds: float = 10.0) -> None:
        """Wait until something has arrived, or fail."""
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, f"it did not arrive: {[s[:3] for s in self.spans]}"
            time.sleep(0.02)


def _attributes(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        kind = item.value.WhichOneof("value")
        value: Any = getattr(item.value, kind) if kind else None
        if kind == "array_value":
            value = [one.string_value for one in value.values]
        found[item.key] = value
    return found


def _received(about: dict[str, Any], span: Any) -> Received:
    return Received(
        str(about.get("service.name", "")),
        about,
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == 2,
    )


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, kept: CollectorFake) -> None:
        self._kept = kept

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self._kept.take_spans(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, kept: CollectorFake) -> None:
        self._kept = kept

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self._kept.take_metrics(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _handler(kept: CollectorFake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self._body()
            if self.headers.get("content-encoding") == "gzip":
                import gzip  # noqa: PLC0415 - only here

                body = gzip.decompress(body)
            kept.paths.append(self.path)
            if self.path.endswith("/v1/traces"):
                kept.take_spans(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                kept.take_metrics(metrics_service_pb2.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def _body(self) -> bytes:
            if "content-length" in self.headers:
                return self.rfile.read(int(self.headers["content-length"]))
            pieces = []  # Envoy sends what it sends in chunks.
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
