"""Traces: spans of calls in and out, sent by OTLP when telemetry is on.

The spans follow OpenTelemetry's conventions for RPC. They are made here and not by its gRPC
instrumentation, which wraps each call anew, cannot wrap streams that write to their context, and
knows nothing of calls that ride together. A span holds method and status; never a message, an
error's text, or anything a caller sent.

A request that is not sampled has no `scope`, and then nothing here makes or sends anything. Who is
asked first decides, Envoy or the service whose listener a caller reached, and the others follow.
"""

import asyncio
import random
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)
from prometheus_client import CollectorRegistry

from services.common import logs
from services.common.otlp import EXPORT_TIMEOUT_S, endpoint, resource, span_exporter
from services.common.settings import CommonSettings

_FAULTS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_NUMBERS: Final = {code.name: code.value[0] for code in grpc.StatusCode}
_UNTRACED: Final = ("/grpc.health.v1.Health/", "/weaver.gateway.v1.GatewayService/Health")
"""What is asked again and again, and tells nobody anything."""
_MOST_LINKS: Final = 64
_parent: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})"
).fullmatch
_attributes_of: dict[str, Mapping[str, str]] = {}
_SLOW_S: Final = 1.0
_NO_PATIENCE_S: Final = 0.1
_kept_waiting: asyncio.AbstractEventLoop | None = None
"""Where the collector did not answer at the end."""


class Scope:
    """The span that what is done now belongs to.

    Attributes:
        tracer: makes the spans of this service.
        span: the current one.
        root: the one of the whole call, as this service serves it.
        links: other spans for which the same is done.
    """

    __slots__ = ("context", "links", "root", "span", "tracer")

    def __init__(
        self, tracer: Tracer, span: Span, root: Span | None = None, links: Sequence[Link] = ()
    ) -> None:
        """See the class."""
        self.tracer = tracer
        self.span = span
        self.root = span if root is None else root
        self.links = links
        self.context: Context = trace.set_span_in_context(span, Context())

    def start(
        self, name: str, attributes: Mapping[str, Any], kind: SpanKind = SpanKind.INTERNAL
    ) -> "Scope":
        """Begin a span below this one; whoever begins it ends it."""
        span = self.tracer.start_span(name, self.context, kind, attributes, self.links)
        return Scope(self.tracer, span, self.root)


scope: ContextVar[Scope | None] = ContextVar("scope", default=None)
"""Where new spans belong; None with telemetry off, and in a request that is not sampled."""


class Tracing:
    """How one service traces.

    Args:
        tracer: makes its spans.
        ratio: the share of traces to sample that nobody else has decided about.
        callers_decide: whether callers from outside say by themselves if they are sampled.
    """

    def __init__(self, tracer: Tracer, *, ratio: float = 1.0, callers_decide: bool = False) -> None:
        """See the class."""
        self.tracer = tracer
        self._ratio = ratio
        self._bound = round(ratio * (1 << 64))
        self._callers_decide = callers_decide

    def _sampled(self, found: re.Match[str] | None, *, trusted: bool, begins: bool) -> bool:
        if found is None:
            return begins and random.random() < self._ratio  # noqa: S311 - a share, not a secret
        if trusted or self._callers_decide:
            return bool(int(found[3], 16) & 1)
        # By the trace's own id, so that all who are asked decide alike.
        return int(found[1][16:], 16) < self._bound

    def begin(
        self,
        path: str,
        metadata: Iterable[tuple[str, Any]],
        *,
        trusted: bool,
        begins: bool = True,
    ) -> Scope | None:
        """Begin the span of a call that came in; None if it is not sampled.

        Args:
            path: the method.
            metadata: what the caller sent.
            trusted: whether the caller says if it is sampled.
            begins: whether a call that belongs to no trace begins one.
        """
        parent = state = None
        for key, value in metadata:
            if key == "traceparent":
                parent = _parent(value)
            elif key == "tracestate":
                state = value
        if not self._sampled(parent, trusted=trusted, begins=begins):
            return None
        context = Context()
        if parent is not None:
            above = SpanContext(
                int(parent[1], 16),
                int(parent[2], 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
                trace_state=TraceState.from_header([state]) if state else None,
            )
            context = trace.set_span_in_context(NonRecordingSpan(above), context)
        span = self.tracer.start_span(path[1:], context, SpanKind.SERVER, attributes(path))
        return Scope(self.tracer, span)


def start_tracing(
    settings: CommonSettings,
    name: str,
    stack: AsyncExitStack,
    registry: CollectorRegistry | None = None,
) -> Tracing | None:
    """Return how a service traces, sending to the collector; None with telemetry off.

    Args:
        settings: whether, where and how much to send.
        name: the service.
        stack: sends what is left and ends the sending.
        registry: gets the figures of the queue.

    Raises:
        SettingsError: the endpoint is not one.
    """
    if not settings.telemetry_enabled:
        return None
    # The SDK is large, and most processes run without it.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

    from services.common.span_queue import SpanQueue  # noqa: PLC0415

    exporter = span_exporter(endpoint(settings.telemetry_endpoint))
    queue = SpanQueue(exporter, settings.telemetry_queue_spans)
    if registry is not None:
        registry.register(queue)
    provider = TracerProvider(
        resource=Resource.create(resource(settings, name)),
        sampler=ALWAYS_ON,  # What is not sampled has no span in the first place.
        shutdown_on_exit=False,
    )
    provider.add_span_processor(queue)
    stack.push_async_callback(bounded, provider.shutdown)
    return Tracing(
        provider.get_tracer("weaver", settings.otel_service_version),
        ratio=settings.telemetry_sample_ratio,
        callers_decide=settings.telemetry_callers_decide,
    )


async def bounded(shutdown: Callable[[], None]) -> None:
    """Shut down on a thread of its own, and leave it behind if the collector does not answer.

    A process has several queues for one collector: once it kept one waiting, no other waits.
    """
    global _kept_waiting  # noqa: PLW0603 - one loop a process, but for tests
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        shutdown()
        with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="telemetry-shutdown", daemon=True).start()
    began = loop.time()
    with suppress(TimeoutError):
        patience_s = _NO_PATIENCE_S if _kept_waiting is loop else EXPORT_TIMEOUT_S
        await asyncio.wait_for(done.wait(), patience_s)
    if loop.time() - began > _SLOW_S:
        _kept_waiting = loop


def traced(  # noqa: PLR0913 - what a listener decides
    tracing: Tracing,
    path: str,
    behaviour: Callable[[Any, Any], Awaitable[Any]],
    outcome: Callable[[Any, BaseException | None], str],
    *,
    trusted: bool,
    begins: bool,
) -> Callable[[Any, Any], Awaitable[Any]]:
    """Return a method's behaviour within a span that continues the caller's trace."""
    if path.startswith(_UNTRACED):
        return behaviour

    async def spanned(request: object, context: Any) -> Any:  # noqa: ANN401 - gRPC's
        metadata = context.invocation_metadata()
        begun = tracing.begin(path, metadata, trusted=trusted, begins=begins)
        if begun is None:
            return await behaviour(request, context)
        scope.set(begun)
        span = begun.span
        logs.trace_id.set(trace.format_trace_id(span.get_span_context().trace_id))
        span.set_attribute("weaver.request_id", logs.request_id.get())
        code = "OK"
        try:
            return await behaviour(request, context)
        except BaseException as error:
            code = outcome(context, error)
            raise
        finally:
            finish(span, code)
            span.end()

    return spanned


def start_client_span(path: str) -> Scope | None:
    """Begin the span of a call that is about to be made; None if nothing is sampled."""
    active = scope.get()
    if active is None or not path or path.startswith(_UNTRACED):
        return None
    return active.start(path[1:], attributes(path), SpanKind.CLIENT)


def finish(span: Span, code: str) -> None:
    """Note how a span's call ended."""
    span.set_attribute("rpc.grpc.status_code", _NUMBERS.get(code, 2))
    if code in _FAULTS:
        span.set_attribute("error.type", code)
        span.set_status(Status(StatusCode.ERROR))


def outgoing_headers() -> tuple[tuple[str, str], ...]:
    """Return the metadata that carry the current span; empty where nothing is sampled."""
    active = scope.get()
    if active is None:
        return ()
    here = active.span.get_span_context()
    parent = f"00-{here.trace_id:032x}-{here.span_id:016x}-01"
    if here.trace_state:
        return (("traceparent", parent), ("tracestate", here.trace_state.to_header()))
    return (("traceparent", parent),)


def together(scopes: Iterable[Scope | None]) -> Scope | None:
    """Return where what is done for several belongs: below the first, linked to the others."""
    several = [one for one in scopes if one is not None]
    if len(several) < 2:  # noqa: PLR2004 - one, or none
        return several[0] if several else None
    first, *others = several
    links = [Link(one.span.get_span_context()) for one in others[:_MOST_LINKS]]
    return Scope(first.tracer, first.span, first.root, links)


def attributes(path: str) -> Mapping[str, str]:
    """Return what the span of a call of a method says."""
    found = _attributes_of.get(path)
    if found is None:
        service, _, method = path[1:].rpartition("/")
        found = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        _attributes_of[path] = found
    return found
