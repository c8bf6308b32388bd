"""Calls between services: errors, identifiers, sizes, deadlines, cancelling, the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from prometheus_client import generate_latest

from services.common import logs
from services.common.channel import call, stream
from services.common.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from services.common.server import Kind, Listener
from services.common.settings import CommonSettings
from tests.fakes.limits import MODEL
from tests.fakes.limits import PEEK as PEEK_PATH
from tests.fakes.served import LOCAL, Suite
from tests.fakes.waiting import eventually
from weaver.common.v1 import identity_pb2
from weaver.model.v1 import model_service_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PEEK = pb.PeekRequest()
STREAM = model_service_pb2.GenerateStreamRequest()
STREAM_PATH = f"/{MODEL}/GenerateStream"


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        yield Suite(CommonSettings(state_dir=tmp_path), stack)


async def test_an_error_arrives_as_it_was_raised(suite: Suite) -> None:
    async def answer(request: Any, context: Any) -> Any:
        raise ResourceExhausted("Too many.", retry_after_s=1.5, metadata={"quota": "requests"})

    suite.limits.answer = answer
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0]).Peek
    with pytest.raises(ResourceExhausted) as caught:
        await call(method, PEEK, timeout_s=5)
    assert caught.value.message == "Too many."
    assert caught.value.retry_after_s == 1.5
    assert caught.value.metadata == {"quota": "requests"}
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await method(PEEK, metadata=(("x-request-id", "request-1"),))
    info = error_details_pb2.RequestInfo()
    status = rpc_status.from_call(cast("grpc.Call", _Call(raw.value)))
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.request_id == "request-1"


class _Call:
    """The synchronous face of a finished call, which grpc_status wants."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()

    def trailing_metadata(self) -> Any:
        return self._error.trailing_metadata()


async def test_a_defect_says_nothing(suite: Suite) -> None:
    async def answer(request: Any, context: Any) -> Any:
        raise KeyError("sesame")

    suite.limits.answer = answer
    handle = await suite.serve()
    with pytest.raises(Internal) as caught:
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert "sesame" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("arity", "path"), [("unary_unary", PEEK_PATH), ("unary_stream", STREAM_PATH)]
)
@pytest.mark.parametrize("request_bytes", [b"\xff", b"\x0a\x05x"])
async def test_a_request_that_cannot_be_decoded_is_the_callers_error_and_counted(
    suite: Suite, arity: str, path: str, request_bytes: bytes
) -> None:
    handle = await suite.serve()
    call = getattr(suite.channel(handle.addresses[0]), arity)(path)(request_bytes)
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await call.details() == "The request cannot be decoded."
    counted = f'{{grpc_code="INVALID_ARGUMENT",grpc_method="{path}"}} 1.0'
    # The status leaves before the call is over for the server.
    await eventually(lambda: counted in generate_latest(suite.component.metrics).decode())


async def test_a_peer_that_may_not_call_learns_nothing_of_its_request(suite: Suite) -> None:
    handle = await suite.serve()
    call = suite.channel(handle.addresses[0], own="model").unary_unary(PEEK_PATH)(b"\xff")
    assert await call.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_method_that_is_not_served_is_unimplemented(suite: Suite) -> None:
    handle = await suite.serve()
    with pytest.raises(Unimplemented):
        await call(suite.stub(handle.addresses[0]).Reserve, pb.ReserveRequest(), timeout_s=5)
    unknown = suite.channel(handle.addresses[0]).unary_unary("/no.Service/Method")
    with pytest.raises(Unimplemented):
        await call(unknown, b"", timeout_s=5)


async def test_the_request_id_of_a_neighbour_is_kept_and_a_strangers_is_not(suite: Suite) -> None:
    seen: list[str] = []

    async def answer(request: Any, context: Any) -> Any:
        seen.append(logs.request_id.get())
        return pb.PeekResponse()

    suite.limits.answer = answer
    handle = await suite.serve(Listener(LOCAL), Listener(LOCAL, Kind.PUBLIC))
    metadata = (("x-request-id", "chosen"),)
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5, metadata=metadata)
    stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(suite.stranger(handle.addresses[1]))
    await call(stub.Peek, PEEK, timeout_s=5, metadata=metadata)
    assert seen[0] == "chosen"
    assert len(seen[1]) == 32


async def test_request_id_and_trace_travel_on(suite: Suite) -> None:
    handle = await suite.serve()
    stub = suite.stub(handle.addresses[0])

    async def answer(request: Any, context: Any) -> Any:
        suite.limits.answer = _empty
        return await call(stub.Peek, PEEK, timeout_s=2)

    suite.limits.answer = answer
    trace = "a" * 32
    await call(
        stub.Peek,
        PEEK,
        timeout_s=5,
        metadata=(("x-request-id", "chosen"), ("traceparent", f"00-{trace}-{'b' * 16}-01")),
    )
    inner = suite.limits.metadata[1]
    assert inner["x-request-id"] == "chosen"
    assert str(inner["traceparent"]).startswith(f"00-{trace}-")
    assert "b" * 16 not in str(inner["traceparent"])


async def _empty(request: Any, context: Any) -> pb.PeekResponse:
    return pb.PeekResponse()


async def test_twelve_megabytes_pass_both_ways(suite: Suite) -> None:
    size = 12 * 1024 * 1024

    async def answer(request: pb.PeekRequest, context: Any) -> pb.PeekResponse:
        assert len(request.principal.subject) == size
        return pb.PeekResponse(policy_version=request.principal.subject)

    suite.limits.answer = answer
    handle = await suite.serve()
    request = pb.PeekRequest(principal=identity_pb2.Principal(subject="x" * size))
    response = await call(suite.stub(handle.addresses[0]).Peek, request, timeout_s=20)
    assert len(response.policy_version) == size


async def test_a_call_without_a_deadline_is_ended(suite: Suite) -> None:
    suite.limits.answer = lambda *_: asyncio.sleep(60)
    handle = await suite.serve(default_deadline_s=0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.stub(handle.addresses[0]).Peek(PEEK)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert suite.limits.cancelled.is_set()


async def test_a_callers_deadline_cancels_the_servicer(suite: Suite) -> None:
    suite.limits.answer = lambda *_: asyncio.sleep(60)
    handle = await suite.serve()
    with pytest.raises(DeadlineExceeded):
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=0.1)
    await asyncio.wait_for(suite.limits.cancelled.wait(), 5)


async def test_cancelling_a_call_cancels_the_servicer(suite: Suite) -> None:
    started = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    suite.limits.answer = answer
    handle = await suite.serve()
    task = asyncio.create_task(call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=60))
    await asyncio.wait_for(started.wait(), 5)
    task.cancel()
    await asyncio.wait_for(suite.limits.cancelled.wait(), 0.5)
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_stream_arrives_and_ends(suite: Suite) -> None:
    stub = suite.model_stub((await suite.serve()).addresses[0])
    assert len([chunk async for chunk in stream(stub.GenerateStream, STREAM)]) == 3


async def test_a_stream_that_is_left_waiting_is_cancelled_promptly(suite: Suite) -> None:
    suite.model.end = lambda: asyncio.sleep(60)
    stub = suite.model_stub((await suite.serve()).addresses[0])
    async with aclosing(stream(stub.GenerateStream, STREAM)) as chunks:
        await anext(chunks)
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)


async def test_a_stream_that_is_left_in_full_flow_is_closed_promptly(suite: Suite) -> None:
    suite.model.chunks = 10**9
    stub = suite.model_stub((await suite.serve()).addresses[0])
    async with aclosing(stream(stub.GenerateStream, STREAM)) as chunks:
        await anext(chunks)
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)


async def test_cancelling_the_reader_cancels_the_stream(suite: Suite) -> None:
    suite.model.end = lambda: asyncio.sleep(60)
    stub = suite.model_stub((await suite.serve()).addresses[0])
    seen = asyncio.Event()

    async def read() -> None:
        async for _ in stream(stub.GenerateStream, STREAM):
            seen.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(seen.wait(), 5)
    task.cancel()
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)
    await asyncio.wait([task])
    assert task.cancelled()


async def test_an_error_within_a_stream_arrives_after_its_messages(suite: Suite) -> None:
    async def end() -> None:
        raise NotFound("No more.")

    suite.model.end = end
    stub = suite.model_stub((await suite.serve()).addresses[0])
    responses = stream(stub.GenerateStream, STREAM)
    for _ in range(3):
        await anext(responses)
    with pytest.raises(NotFound, match="No more"):
        await anext(responses)


async def test_a_drain_lets_calls_in_flight_end_and_refuses_new_ones(suite: Suite) -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, context: Any) -> pb.PeekResponse:
        started.set()
        await gate.wait()
        return pb.PeekResponse(policy_version="kept")

    suite.limits.answer = answer
    handle = await suite.serve()
    stub = suite.stub(handle.addresses[0])
    health = suite.health(suite.channel(handle.addresses[0]))
    async with aclosing(stream(health.Watch, health_pb2.HealthCheckRequest())) as states:
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        in_flight = asyncio.create_task(call(stub.Peek, PEEK, timeout_s=30))
        await asyncio.wait_for(started.wait(), 5)
        drain = asyncio.create_task(handle.drain(10))
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(StopAsyncIteration):
            await anext(states)
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert not drain.done()
    gate.set()
    assert (await in_flight).policy_version == "kept"
    await asyncio.wait_for(drain, 5)


async def test_a_drain_ends_what_outlives_its_grace(suite: Suite) -> None:
    started = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    suite.limits.answer = answer
    handle = await suite.serve()
    task = asyncio.create_task(call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=60))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(handle.drain(0.05), 5)
    with pytest.raises(Unavailable):
        await task
    assert suite.limits.cancelled.is_set()
