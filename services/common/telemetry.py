"""Traces: spans of calls in and out, sent by OTLP when telemetry is on.

The spans follow OpenTelemetry's conventions for RPC. They are made here and not by its gRPC
instrumentation, which wraps each call anew and cannot wrap streams that write to their context. A
span holds method and status; never a message, an error's text, or anything a caller sent. A
collector that is down costs nothing but spans: the queue is bounded, and so is the wait at the end.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.common import logs
from services.common.settings import CommonSettings

OTLP_GRPC_PORT: Final = 4317
EXPORT_TIMEOUT_S: Final = 3
_QUEUE_SPANS: Final = 2048
_BATCH_SPANS: Final = 512
_DELAY_MS: Final = 2000
_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_NUMBERS: Final = {code.name: code.value[0] for code in grpc.StatusCode}
_NO_SPAN: Final = nullcontext()
_propagator: Final = TraceContextTextMapPropagator()

tracer: ContextVar[Tracer | None] = ContextVar("tracer", default=None)
"""What makes spans for the calls that the current call makes; None with telemetry off."""


def start_tracing(settings: CommonSettings, name: str, stack: AsyncExitStack) -> Tracer | None:
    """Return a tracer of a service, which sends to the collector; None with telemetry off.

    Args:
        settings: whether and where to send.
        name: the service.
        stack: sends what is left and ends the sending.
    """
    if not settings.telemetry_enabled:
        return None
    # The SDK is large, and most processes run without it.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    resource = Resource.create(
        {
            "service.namespace": settings.otel_service_name,
            "service.name": f"{settings.otel_service_name}-{name}",
            "service.version": settings.otel_service_version,
            "deployment.environment.name": settings.environment,
        }
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(
            _exporter(settings.telemetry_endpoint),
            max_queue_size=_QUEUE_SPANS,
            max_export_batch_size=_BATCH_SPANS,
            schedule_delay_millis=_DELAY_MS,
            export_timeout_millis=EXPORT_TIMEOUT_S * 1000,
        )
    )
    stack.push_async_callback(_bounded, provider.shutdown)
    return provider.get_tracer("weaver", settings.otel_service_version)


async def _bounded(shutdown: Callable[[], None]) -> None:
    """Shut down on a thread of its own, and leave it behind if the collector does not answer."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        shutdown()
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry-shutdown", daemon=True).start()
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), EXPORT_TIMEOUT_S)


def _exporter(endpoint: str) -> Any:  # noqa: ANN401 - an SDK type, imported when needed
    parts = urlsplit(endpoint)
    if parts.port == OTLP_GRPC_PORT:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )

        return OTLPSpanExporter(
            endpoint=endpoint, insecure=parts.scheme != "https", timeout=EXPORT_TIMEOUT_S
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as HTTPSpanExporter,
    )

    path = parts.path if parts.path not in ("", "/") else "/v1/traces"
    return HTTPSpanExporter(
        endpoint=f"{parts.scheme}://{parts.netloc}{path}", timeout=EXPORT_TIMEOUT_S
    )


def traced(
    maker: Tracer,
    path: str,
    behaviour: Callable[[Any, Any], Awaitable[Any]],
    outcome: Callable[[Any, BaseException | None], str],
) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a method's behaviour within a span that continues the caller's trace."""
    attributes = _attributes(path)

    async def spanned(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
        carrier = {
            key: value
            for key, value in context.invocation_metadata()
            if key in ("traceparent", "tracestate")
        }
        tracer.set(maker)
        with maker.start_as_current_span(
            path[1:],
            context=_propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            logs.trace_id.set(trace.format_trace_id(span.get_span_context().trace_id))
            try:
                return await behaviour(request, context)
            except BaseException as error:
                finish(span, outcome(context, error))
                raise

    return spanned


def start_client_span(path: str) -> Span | None:
    """Return a span for a call that is about to be made; None with telemetry off."""
    maker = tracer.get()
    if maker is None or not path:
        return None
    return maker.start_span(path[1:], kind=SpanKind.CLIENT, attributes=_attributes(path))


def current(span: Span | None) -> AbstractContextManager[object]:
    """Return what makes a span current while its call is started, so that the call carries it."""
    return _NO_SPAN if span is None else trace.use_span(span)


def finish(span: Span | None, code: str) -> None:
    """Note how a span's call ended, unless it went well."""
    if span is not None:
        span.set_attribute("rpc.grpc.status_code", _NUMBERS[code])
        if code in _FAULTS:
            span.set_status(Status(StatusCode.ERROR))


def outgoing_headers() -> tuple[tuple[str, str], ...]:
    """Return the metadata that carry the current span; empty with telemetry off."""
    if tracer.get() is None:
        return ()
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return tuple(carrier.items())


def _attributes(path: str) -> dict[str, str]:
    service, _, method = path[1:].rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
