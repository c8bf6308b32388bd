"""A channel to a servicer in the same process, for generated stubs.

`weaver up` hosts all four services in one process; the gateway then reaches its neighbours through
this channel: the same stubs and messages, no socket, no serialisation. Errors arrive as they were
raised. What a server's interceptors do for strangers (peer names, access logs) has no place here,
because both ends are this process.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

import grpc

from services.common.errors import DeadlineExceeded, Unimplemented

Metadata = Sequence[tuple[str, str | bytes]]


class LocalContext:
    """The part of `grpc.aio.ServicerContext` that Weaver's servicers use."""

    def __init__(self, peer_name: str, metadata: Metadata, timeout_s: float | None) -> None:
        """See the class."""
        self.peer_name = peer_name
        self._metadata = metadata
        loop = asyncio.get_running_loop()
        self._end = None if timeout_s is None else loop.time() + timeout_s

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None without one."""
        return (
            None if self._end is None else max(0.0, self._end - asyncio.get_running_loop().time())
        )

    def peer(self) -> str:
        """Return where the call comes from."""
        return "local:"


class LocalChannel:
    """Takes servicers like a server and serves stubs like a channel.

    Args:
        peer_name: who the calls are from, as a certificate would say.
    """

    def __init__(self, peer_name: str) -> None:
        """See the class."""
        self._peer_name = peer_name
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Take a servicer's handlers; the generated `add_…_to_server` also calls the next one."""

    def add_registered_method_handlers(
        self, service: str, handlers: "dict[str, grpc.RpcMethodHandler[Any, Any]]"
    ) -> None:
        """Take a servicer's methods by name."""
        for method, handler in handlers.items():
            self._handlers[f"/{service}/{method}"] = handler

    def unary_unary(self, path: str, *_: object, **__: object) -> Callable[..., Awaitable[Any]]:
        """Return a call with one request and one response."""
        handler = self._handlers.get(path)
        behaviour = None if handler is None else cast("Any", handler).unary_unary

        async def call(
            request: object,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - what generated stubs are called with
            metadata: Metadata = (),
        ) -> object:
            if behaviour is None:
                msg = f"{path} is not served in this process."
                raise Unimplemented(msg)
            context = LocalContext(self._peer_name, metadata, timeout)
            if timeout is None:
                return await behaviour(request, context)
            try:
                async with asyncio.timeout(timeout):
                    return await behaviour(request, context)
            except TimeoutError:
                msg = "The deadline passed."
                raise DeadlineExceeded(msg) from None

        return call

    def unary_stream(
        self, path: str, *_: object, **__: object
    ) -> Callable[..., AsyncIterator[Any]]:
        """Return a call with one request and a stream of responses.

        Closing the iterator (`aclose`) cancels the call.
        """
        handler = self._handlers.get(path)
        behaviour = None if handler is None else cast("Any", handler).unary_stream

        def call(
            request: object, *, timeout: float | None = None, metadata: Metadata = ()
        ) -> AsyncIterator[Any]:
            if behaviour is None:
                msg = f"{path} is not served in this process."
                raise Unimplemented(msg)
            context = LocalContext(self._peer_name, metadata, timeout)
            return cast("AsyncIterator[Any]", behaviour(request, context))

        return call

    def stream_unary(self, *_: object, **__: object) -> None:
        """Return nothing: no service has such methods."""

    def stream_stream(self, *_: object, **__: object) -> None:
        """Return nothing: no service has such methods."""
