"""A channel to a servicer in the same process, for generated stubs.

`weaver up` hosts all four services in one process; the gateway then reaches its neighbours through
this channel: the same stubs and messages, no socket, no serialisation. Messages are handed over as
they are: neither side changes one after sending it. Errors arrive as they were raised, and what is
no `WeaverError` arrives as `Internal`, as it would over the wire. What a server's interceptors do
for strangers (peer names, access logs) has no place here, because both ends are this process.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from types import TracebackType
from typing import Any

from services.common.errors import DeadlineExceeded, Internal, Unimplemented, WeaverError

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
    """

    def __init__(self, peer_name: str) -> None:
        """See the class."""
        self._peer_name = peer_name
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

        async def call(
            request: object,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - what generated stubs are called with
            metadata: Metadata | None = None,
        ) -> object:
            behaviour = self._behaviour(path, "unary_unary")
            context = LocalContext(self._peer_name, metadata or (), timeout)
            # Plain handlers: this is on the path of every call, several times.
            scope = asyncio.timeout_at(context.end)
            try:
                async with scope:
                    return await behaviour(request, context)
            except WeaverError:
                raise
            except Exception as error:
                if isinstance(error, TimeoutError) and scope.expired():
                    msg = "The deadline passed."
                    raise DeadlineExceeded(msg) from None
                msg = "Internal error. Quote the request id."
                raise Internal(msg) from error

        return call

    def unary_stream(
        self, path: str, *_: object, **__: object
    ) -> Callable[..., AsyncGenerator[Any, None]]:
        """Return a call with one request and a stream of responses.

        Closing the iterator (`aclose`) cancels the call.
        """

        async def call(
            request: object,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - what generated stubs are called with
            metadata: Metadata | None = None,
        ) -> AsyncGenerator[Any, None]:
            behaviour = self._behaviour(path, "unary_stream")
            context = LocalContext(self._peer_name, metadata or (), timeout)
            with _as_over_the_wire():
                async with aclosing(behaviour(request, context)) as responses:
                    while True:
                        try:
                            if context.end is None:
                                response = await anext(responses)
                            else:
                                async with _deadline(context.end):
                                    response = await anext(responses)
                        except StopAsyncIteration:
                            return
                        yield response

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


@contextmanager
def _as_over_the_wire() -> Iterator[None]:
    try:
        yield
    except (WeaverError, GeneratorExit):
        raise
    except Exception as error:
        msg = "Internal error. Quote the request id."
        raise Internal(msg) from error


class _deadline:  # noqa: N801 - used like a function
    """Ends a block at a moment of the loop's clock, with the error that gRPC would raise."""

    def __init__(self, end: float) -> None:
        self._scope = asyncio.timeout_at(end)

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            msg = "The deadline passed."
            raise DeadlineExceeded(msg) from None
