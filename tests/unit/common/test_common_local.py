"""Stubs over a servicer in the same process."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from services.common.channel import call, remaining, stream
from services.common.errors import DeadlineExceeded, Internal, NotFound, Unimplemented
from services.common.local import LocalChannel
from tests.fakes.limits import ScriptedLimits, ScriptedModel, component
from weaver.model.v1 import model_service_pb2, model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PEEK = pb.PeekRequest()
STREAM = model_service_pb2.GenerateStreamRequest()


class Neighbour:
    """Both ends of a local channel."""

    def __init__(self) -> None:
        self.limits = ScriptedLimits()
        self.model = ScriptedModel()
        channel: Any = LocalChannel("gateway")
        self.stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self.model_stub = model_service_pb2_grpc.ModelServiceStub(channel)
        component(self.limits, self.model).register(channel)


@pytest.fixture
async def neighbour() -> Neighbour:
    return Neighbour()


async def test_a_call_reaches_the_servicer_with_peer_and_metadata(neighbour: Neighbour) -> None:
    await call(neighbour.stub.Peek, PEEK, timeout_s=1, metadata=(("k", "v"),))
    assert neighbour.limits.peers == ["gateway"]
    assert neighbour.limits.metadata[0]["k"] == "v"


async def test_a_call_without_a_deadline_has_none(neighbour: Neighbour) -> None:
    async def answer(request: Any, context: Any) -> Any:
        assert context.time_remaining() is None
        assert remaining(context, 7.0) == 7.0
        assert context.peer() == "local:"
        return pb.PeekResponse(policy_version="7")

    neighbour.limits.answer = answer
    assert (await neighbour.stub.Peek(PEEK)).policy_version == "7"


async def test_the_deadline_shrinks_on_the_way(neighbour: Neighbour) -> None:
    async def answer(request: Any, context: Any) -> Any:
        assert 0.9 < remaining(context, 5.0) < 1.0
        assert remaining(context, 0.5) == 0.5
        return pb.PeekResponse()

    neighbour.limits.answer = answer
    await call(neighbour.stub.Peek, PEEK, timeout_s=1)


async def test_a_deadline_that_passes_cancels_the_servicer(neighbour: Neighbour) -> None:
    async def answer(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    neighbour.limits.answer = answer
    with pytest.raises(DeadlineExceeded):
        await call(neighbour.stub.Peek, PEEK, timeout_s=0.01)
    assert neighbour.limits.cancelled.is_set()


async def test_nothing_is_left_of_a_deadline_that_passed(neighbour: Neighbour) -> None:
    async def answer(request: Any, context: Any) -> Any:
        with pytest.raises(DeadlineExceeded):
            remaining(context, 1.0)
        return pb.PeekResponse()

    neighbour.limits.answer = answer
    await call(neighbour.stub.Peek, PEEK, timeout_s=0.005)


async def test_an_error_arrives_as_it_was_raised(neighbour: Neighbour) -> None:
    error = NotFound("no such thing")

    async def answer(request: Any, context: Any) -> Any:
        raise error

    neighbour.limits.answer = answer
    with pytest.raises(NotFound) as caught:
        await call(neighbour.stub.Peek, PEEK, timeout_s=1)
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyError("x"), TimeoutError()])
async def test_a_defect_arrives_as_internal(neighbour: Neighbour, error: BaseException) -> None:
    async def answer(request: Any, context: Any) -> Any:
        raise error

    neighbour.limits.answer = answer
    with pytest.raises(Internal) as caught:
        await call(neighbour.stub.Peek, PEEK, timeout_s=1)
    assert caught.value.__cause__ is error


async def test_a_method_that_nobody_serves_is_unimplemented() -> None:
    channel: Any = LocalChannel("gateway")
    stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
    with pytest.raises(Unimplemented):
        await call(stub.Peek, PEEK, timeout_s=1)


async def test_a_stream_arrives_in_order_and_ends(neighbour: Neighbour) -> None:
    chunks = [chunk async for chunk in stream(neighbour.model_stub.GenerateStream, STREAM)]
    assert len(chunks) == 3
    assert neighbour.model.closed.is_set()


async def test_leaving_a_stream_early_closes_the_servicer(neighbour: Neighbour) -> None:
    async with aclosing(stream(neighbour.model_stub.GenerateStream, STREAM)) as chunks:
        await anext(chunks)
    assert neighbour.model.closed.is_set()


async def test_a_deadline_ends_a_stream(neighbour: Neighbour) -> None:
    neighbour.model.end = lambda: asyncio.sleep(60)
    with pytest.raises(DeadlineExceeded):
        async for _ in stream(neighbour.model_stub.GenerateStream, STREAM, timeout_s=0.01):
            pass
    assert neighbour.model.closed.is_set()


async def test_a_defect_within_a_stream_arrives_as_internal(neighbour: Neighbour) -> None:
    async def end() -> None:
        raise KeyError

    neighbour.model.end = end
    with pytest.raises(Internal):
        async for _ in stream(neighbour.model_stub.GenerateStream, STREAM):
            pass


async def test_cancelling_a_stream_cancels_the_servicer(neighbour: Neighbour) -> None:
    neighbour.model.end = lambda: asyncio.sleep(60)

    async def read() -> None:
        async for _ in stream(neighbour.model_stub.GenerateStream, STREAM):
            pass

    task = asyncio.create_task(read())
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert neighbour.model.closed.is_set()


async def test_closing_the_channel_closes_nothing() -> None:
    await LocalChannel("gateway").close()
