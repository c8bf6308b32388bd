"""A channel to a servicer in the same process, for generated stubs.

`weaver up` hosts all four services in one process; the gateway then reaches its neighbours through
this channel: the same stubs and messages, no socket, no serialisation. Messages are handed over as
they are: neither side changes one after sending it. Errors arrive as they were raised, and what is
no `WeaverError` arrives as `Internal`, as it would over the wire. Calls are counted and timed, and
have spans, as the service's own. What a server's interceptors do for strangers (peer names, access
logs) has no place here, because both ends are this process.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from opentelemetry.trace import SpanKind

from services.common import telemetry
from services.common.deadlines import deadline
from services.common.errors import DeadlineExceeded, Internal, Unimplemented, WeaverError
from services.common.interceptors.call_metrics import CallMetrics
from services.common.status import code_name
from services.common.telemetry import Scope, Tracing

Metadata = Sequence[tuple[str, str | bytes]]


class LocalContext:
    """The part of `grpc.aio.ServicerContext` that Weaver's servicers use."""

    def __init__(self, peer_name: str, metadata: Metadata, timeout_s: float | None) -> None:
        """See the class."""
        self.peer_name = peer_name
        self._metadata = metadata
        self._loop = asyncio.get_running_loop()
        self.end = None if timeout_s is None else self._loop.time() + timeout_s

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without one."""
        return None if self.end is None else max(0.0, self.end - self._loop.time())

    def peer(self) -> str:
        """Return where the call comes from."""
        return "local:"


class LocalChannel:
    """Takes servicers like a server and serves stubs like a channel, in any order.

    Args:
        peer_name: who the calls are from, as a certificate would say.
        calls: counts and times the calls; None where nobody asks.
        tracing: how the service that is called traces; None with telemetry off.
    """

    def __init__(
        self, peer_name: str, calls: CallMetrics | None = None, tracing: Tracing | None = None
    ) -> None:
        """See the class."""
        self._peer_name = peer_name
        self._calls = CallMetrics() if calls is None else calls
        self._tracing = tracing
        self._handlers: dict[str, Any] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Take a servicer's handlers; the generated `add_…_to_server` also calls the next one."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Take a servicer's methods by name."""
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = handler

    async def close(self, grace: float | None = None) -> None:
        """Close nothing: there is no connection."""

    def unary_unary(self, path: str, *_: object, **__: object) -> Callable[..., Awaitable[Any]]:
        """Return a call with one request and one response."""
        observe, clock, tracing = self._calls.of(path).observe, time.perf_counter, self._tracing

        async def call(
            request: object,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - what generated stubs are called with
            metadata: Metadata | None = None,
        ) -> object:
            behaviour = self._behaviour(path, "unary_unary")
            context = LocalContext(self._peer_name, metadata or (), timeout)
            started = clock()
            # Plain handlers: this is on the path of every call, several times.
            scope = deadline(context.end)
            try:
                with scope:
                    if tracing is None or telemetry.scope.get() is None:
                        response: object = await behaviour(request, context)
                    else:
                        response = await _traced(tracing, path, behaviour(request, context))
            except Exception as raised:
                error: Exception = raised
                if isinstance(raised, TimeoutError) and scope.expired:
                    error = DeadlineExceeded("The deadline passed.")
                elif not isinstance(raised, WeaverError):
                    error = Internal("Internal error. Quote the request id.")
                observe(code_name(error), clock() - started)
                if error is raised:
                    raise
                raise error from (None if scope.expired else raised)
            except BaseException as gone:
                observe(code_name(gone), clock() - started)
                raise
            observe("OK", clock() - started)
            return response

        call.path = path  # type: ignore[attr-defined] # as gRPC's own have it, for spans
        return call

    def unary_stream(
        self, path: str, *_: object, **__: object
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        """Return a call with one request and a stream of responses.

        Closing the iterator (`aclose`) cancels the call.
        """
        observe, clock, tracing = self._calls.of(path).observe, time.perf_counter, self._tracing

        async def run(
            request: object, context: LocalContext, above: Scope | None
        ) -> AsyncGenerator[Any, None]:
            started, code = clock(), "OK"
            span = None
            if tracing is not None and above is not None:
                span = Scope(tracing.tracer, above.span).start(
                    path[1:], telemetry.attributes(path), SpanKind.SERVER
                )
            try:
                async with aclosing(
                    self._behaviour(path, "unary_stream")(request, context)
                ) as all_:
                    while True:
                        try:
                            response = await _next(all_, context.end, span)
                        except StopAsyncIteration:
                            return
                        yield response
            except BaseException as raised:
                code = code_name(raised)
                if isinstance(raised, WeaverError) or not isinstance(raised, Exception):
                    raise
                raise Internal("Internal error. Quote the request id.") from raised
            finally:
                observe(code, clock() - started)
                if span is not None:
                    telemetry.finish(span.span, code)
                    span.span.end()

        def call(
            request: object,
            *,
            timeout: float | None = None,
            metadata: Metadata | None = None,
        ) -> AsyncGenerator[Any, None]:
            context = LocalContext(self._peer_name, metadata or (), timeout)
            return run(request, context, telemetry.scope.get())

        call.path = path  # type: ignore[attr-defined] # see above
        return call

    def stream_unary(self, path: str, *_: object, **__: object) -> None:
        """Return nothing: no service has such methods."""

    def stream_stream(self, path: str, *_: object, **__: object) -> None:
        """Return nothing: no service has such methods."""

    def _behaviour(self, path: str, kind: str) -> Callable[..., Any]:
        handler = self._handlers.get(path)
        if handler is None:
            msg = f"{path} is not served in this process."
            raise Unimplemented(msg)
        behaviour: Callable[..., Any] = getattr(handler, kind)
        return behaviour


async def _traced(tracing: Tracing, path: str, behaviour: Awaitable[Any]) -> object:
    """Do something within a span of the service that is called."""
    above = telemetry.scope.get()
    assert above is not None  # noqa: S101 - asked just before
    begun = Scope(tracing.tracer, above.span).start(
        path[1:], telemetry.attributes(path), SpanKind.SERVER
    )
    token, code = telemetry.scope.set(Scope(tracing.tracer, begun.span)), "OK"
    try:
        return await behaviour
    except BaseException as error:
        code = code_name(error)
        raise
    finally:
        telemetry.scope.reset(token)
        telemetry.finish(begun.span, code)
        begun.span.end()


async def _next(
    responses: AsyncGenerator[Any, None], end: float | None, span: Scope | None
) -> object:
    """Return the next response; only meanwhile the span is the current one."""
    token = None if span is None else telemetry.scope.set(span)
    scope = deadline(end)
    try:
        with scope:
            return await anext(responses)
    except TimeoutError:
        if not scope.expired:
            raise
        msg = "The deadline passed."
        raise DeadlineExceeded(msg) from None
    finally:
        if token is not None:
            telemetry.scope.reset(token)
