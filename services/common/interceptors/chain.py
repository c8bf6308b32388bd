"""Puts interceptors around a server's methods, each method once.

A streaming behaviour is turned into a coroutine that writes to its context, so that an interceptor
sees unary and streaming calls alike, and so that a cancelled stream closes its generator at once
and not when the garbage collector comes by.

A streaming method can also be a coroutine that writes all but its last message to its context, as
bytes, and returns that one. The last message then leaves together with the status, in one operation
instead of two: on the wire the call is the same, and one with a single message costs what a unary
one does.

Interceptors see a request as bytes. It is decoded innermost, so that one that cannot be decoded is
an error like any other, and so that a peer that may not call costs no decoding.
"""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import DecodeError

from services.common.errors import InvalidArgument

Behaviour = Callable[[Any, Any], Awaitable[Any]]
Handler = Any  # gRPC's handlers are generic in its stubs alone


@dataclass(frozen=True, slots=True)
class Method:
    """A method as interceptors see it.

    Attributes:
        path: `/package.Service/Method`.
        streaming: whether it answers with a stream.
    """

    path: str
    streaming: bool

    @property
    def service(self) -> str:
        """The full name of its service."""
        return self.path.rpartition("/")[0].removeprefix("/")


class Interceptor(Protocol):
    """Something around a call."""

    def wrap(self, method: Method, behaviour: Behaviour) -> Behaviour:
        """Return the behaviour of a method with something around it."""
        ...


class Chain(grpc.aio.ServerInterceptor):
    """The interceptors of one server, outermost first.

    Args:
        interceptors: those.
        unknown: is told of each call of a method that is not served.
    """

    def __init__(
        self, interceptors: Sequence[Interceptor], unknown: Callable[[], None] | None = None
    ) -> None:
        """See the class."""
        self._unknown = unknown
        self._interceptors = tuple(interceptors)
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the wrapped handler of a method; what is not served is left to gRPC."""
        path = handler_call_details.method
        handler = self._handlers.get(path)
        if handler is None:
            handler = await continuation(handler_call_details)
            if handler is not None:
                handler = self._handlers[path] = self._wrap(path, handler)
            elif self._unknown is not None:
                self._unknown()
        return handler

    def _wrap(self, path: str, handler: Handler) -> Handler:
        kind = f"{_ARITY[handler.request_streaming]}_{_ARITY[handler.response_streaming]}"
        behaviour: Behaviour = getattr(handler, kind)
        method = Method(path, streaming=handler.response_streaming)
        if inspect.isasyncgenfunction(behaviour):
            behaviour = _writing(behaviour)
        elif handler.response_streaming:
            kind = f"{_ARITY[handler.request_streaming]}_unary"
        deserializer = handler.request_deserializer
        if deserializer is not None and self._interceptors and not handler.request_streaming:
            behaviour, deserializer = _decoding(behaviour, deserializer), None
        for interceptor in reversed(self._interceptors):
            behaviour = interceptor.wrap(method, behaviour)
        build = getattr(grpc, f"{kind}_rpc_method_handler")
        return build(behaviour, deserializer, handler.response_serializer)


_ARITY = {False: "unary", True: "stream"}


def _decoding(behaviour: Behaviour, decode: Callable[[bytes], Any]) -> Behaviour:
    def decoded(request: Any, context: Any) -> Awaitable[Any]:  # noqa: ANN401 - gRPC's
        try:
            message = decode(request)
        except DecodeError:
            msg = "The request cannot be decoded."
            raise InvalidArgument(msg) from None
        return behaviour(message, context)

    return decoded


def _writing(generator: Callable[[Any, Any], Any]) -> Behaviour:
    async def behaviour(request: object, context: Any) -> None:  # noqa: ANN401 - gRPC's
        responses = generator(request, context)
        try:
            async for response in responses:
                await context.write(response)
        finally:
            await responses.aclose()

    return behaviour
