"""Streams pass as they are made, and end when the caller leaves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from services.cli import edge as configuration
from tests.integration.edge.conftest import Edge, ScriptedGateway
from weaver.gateway.v1 import gateway_service_pb2 as messages
from weaver.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
EVENTS = "text/event-stream"


async def leave(client: httpx.AsyncClient, call: asyncio.Task[Any]) -> None:
    """Give up a call; httpx tells an HTTP/2 server of that only by closing the connection."""
    call.cancel()
    await asyncio.wait([call])
    await client.aclose()


async def test_each_chunk_of_a_stream_arrives_when_it_is_made(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    may_go_on = asyncio.Event()
    made: list[float] = []

    async def stream(_: object, __: object) -> AsyncIterator[HttpBody]:
        for number in range(5):
            made.append(time.monotonic())
            yield HttpBody(content_type=EVENTS, data=b"data: %d\n\n" % number)
            await may_go_on.wait()
            may_go_on.clear()

    gateway.scripts["ChatCompletions"] = stream
    delays: list[float] = []
    received = b""
    async with client.stream("POST", CHAT, content=b"{}") as response:
        assert response.headers["content-type"] == EVENTS
        async for chunk in response.aiter_raw():
            delays.append(time.monotonic() - made[-1])
            received += chunk
            may_go_on.set()
    assert received == b"".join(b"data: %d\n\n" % number for number in range(5))
    assert len(delays) == 5
    assert sorted(delays)[2] < 0.05


async def test_a_stream_outlives_the_request_timeout(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stream(_: object, __: object) -> AsyncIterator[HttpBody]:
        for _number in range(5):
            yield HttpBody(content_type=EVENTS, data=b"data: x\n\n")
            await asyncio.sleep(0.6)

    gateway.scripts["ChatCompletions"] = stream
    monkeypatch.setattr(configuration, "SILENCE_MARGIN_S", 0)
    edge = another_edge(request_timeout_ms=100, stream_idle_timeout_ms=1_000)
    async with edge.client() as client:
        response = await client.post(CHAT, content=b"{}")
    assert response.content == b"data: x\n\n" * 5


@pytest.mark.parametrize("after_first_chunk", [False, True])
async def test_a_client_that_leaves_cancels_the_gateways_call_within_100_ms(
    client: httpx.AsyncClient, gateway: ScriptedGateway, *, after_first_chunk: bool
) -> None:
    started = asyncio.Event()
    cancelled: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def stream(_: object, __: object) -> AsyncIterator[HttpBody]:
        started.set()
        try:
            if after_first_chunk:
                yield HttpBody(content_type=EVENTS, data=b"data: 1\n\n")
            await asyncio.sleep(60)
        finally:
            cancelled.set_result(time.monotonic())

    gateway.scripts["ChatCompletions"] = stream

    async def call() -> None:
        async with client.stream("POST", CHAT, content=b"{}") as response:
            async for _ in response.aiter_raw():
                pass

    task = asyncio.create_task(call())
    await started.wait()
    await asyncio.sleep(0.05)
    left = time.monotonic()
    await leave(client, task)
    async with asyncio.timeout(5):
        assert await cancelled - left < 0.1


async def test_a_unary_call_is_cancelled_likewise(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    started = asyncio.Event()
    cancelled: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def answer(_: object, __: object) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set_result(time.monotonic())

    gateway.scripts["Embeddings"] = answer
    task = asyncio.create_task(client.post("/v1/embeddings", content=b"{}"))
    await started.wait()
    left = time.monotonic()
    await leave(client, task)
    async with asyncio.timeout(5):
        assert await cancelled - left < 0.1


async def test_a_native_client_that_leaves_cancels_likewise(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    cancelled: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def stream(_: object, __: object) -> AsyncIterator[messages.GenerateStreamResponse]:
        try:
            yield messages.GenerateStreamResponse(text_delta="a")
            await asyncio.sleep(60)
        finally:
            cancelled.set_result(time.monotonic())

    gateway.scripts["GenerateStream"] = stream
    async with edge.channel() as channel:
        call = gateway_grpc.GatewayServiceStub(channel).GenerateStream(
            messages.GenerateStreamRequest()
        )
        await call.read()
        left = time.monotonic()
        call.cancel()
        async with asyncio.timeout(5):
            assert await cancelled - left < 0.1


async def test_a_call_that_the_gateway_has_seen_is_never_sent_twice(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    async def stream(_: object, context: object) -> AsyncIterator[HttpBody]:
        raise RuntimeError("a defect")
        yield

    gateway.scripts["ChatCompletions"] = stream
    response = await client.post(CHAT, content=b"{}")
    assert response.status_code == 500
    assert "defect" not in response.text
    assert len(gateway.calls) == 1
