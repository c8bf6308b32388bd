"""A rate limit servicer whose answers a test scripts, and the component around it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from services.common.component import Component
from services.common.health import Health
from services.common.peer import peer_name
from weaver.model.v1 import model_service_pb2, model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

RATELIMIT = "weaver.ratelimit.v1.RateLimitService"
MODEL = "weaver.model.v1.ModelService"
PEEK = f"/{RATELIMIT}/Peek"

Answer = Callable[[Any, Any], Awaitable[Any]]


async def peek_response(request: object, context: object) -> pb.PeekResponse:
    return pb.PeekResponse()


# Left without the other methods on purpose; the stubs' types call such a class abstract.
_Limits: Any = ratelimit_service_pb2_grpc.RateLimitServiceServicer
_Model: Any = model_service_pb2_grpc.ModelServiceServicer


class ScriptedLimits(_Limits):  # type: ignore[misc]  # see above
    """Answers `Peek` as the test says, and remembers who asked."""

    def __init__(self) -> None:
        self.answer: Answer = peek_response
        self.peers: list[str] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.cancelled = asyncio.Event()

    async def Peek(  # noqa: N802 - gRPC's name
        self, request: pb.PeekRequest, context: Any
    ) -> pb.PeekResponse:
        self.peers.append(peer_name(context))
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            response: pb.PeekResponse = await self.answer(request, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return response


class ScriptedModel(_Model):  # type: ignore[misc]  # see above
    """Streams numbered chunks, then does what the test says."""

    def __init__(self) -> None:
        self.chunks = 3
        self.end: Callable[[], Awaitable[None]] = partial(asyncio.sleep, 0)
        self.closed = asyncio.Event()

    async def GenerateStream(  # noqa: N802 - gRPC's name
        self, request: model_service_pb2.GenerateStreamRequest, context: Any
    ) -> AsyncIterator[model_service_pb2.GenerateStreamResponse]:
        try:
            for _ in range(self.chunks):
                yield model_service_pb2.GenerateStreamResponse()
            await self.end()
        finally:
            self.closed.set()


def component(
    limits: ScriptedLimits, model: ScriptedModel | None = None, name: str = "ratelimit"
) -> Component:
    def register(server: Any) -> None:
        ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, server)
        if model is not None:
            model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)

    health = Health()
    health.set("", True)
    services = (RATELIMIT,) if model is None else (RATELIMIT, MODEL)
    return Component(name, services, register, health, CollectorRegistry())
