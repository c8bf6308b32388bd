"""Streams of ModelService, whole and broken, against a real HTTP server."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from services.common.errors import Unavailable
from tests.fakes.model_service import OPENAI, Start, collect, starter
from tests.fakes.upstream import Script, Upstream
from tests.fakes.waiting import eventually


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def upstream(stack: AsyncExitStack) -> Upstream:
    return await stack.enter_async_context(Upstream())


@pytest.fixture(params=["local", "grpc"])
def start(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Start:
    return starter(request.param, stack)


async def test_a_stream_passes_and_ends_with_its_usage(start: Start, upstream: Upstream) -> None:
    service = await start(
        endpoint=upstream.base_url, **OPENAI, input_price_micros=1_000_000, output_price_micros=2
    )

    started, chunks, end = await collect(service.stream())

    assert started.content_type.startswith("text/event-stream")
    body = b"".join(chunk.body for chunk in chunks)
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"prompt_tokens"' not in body
    assert [chunk.terminal for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert end.error == ""
    assert (end.generation.usage.input_tokens, end.generation.usage.output_tokens) == (3, 5)
    assert end.generation.cost_micros == 4
    assert end.generation.finish_reason == "stop"
    assert upstream.requests[0].json()["stream_options"] == {"include_usage": True}


async def test_chunks_pass_as_they_arrive(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(stall_after=2)

    async with aclosing(service.stream()) as steps, asyncio.timeout(2):
        assert (await anext(steps)).WhichOneof("step") == "start"
        body = b""
        while b"You" not in body:
            body += (await anext(steps)).chunk.body


async def test_connections_serve_again_after_answers_and_streams(
    start: Start, upstream: Upstream
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)

    for _ in range(3):
        await service.generate()
        await collect(service.stream())

    assert upstream.connections == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(cut_after=3), "PROVIDER_FAILED"),
        (Script(end_after=3), "PROVIDER_FAILED"),
        (Script(garbage_after=3), "PROVIDER_FAILED"),
        (Script(error_after=3), "PROVIDER_FAILED"),
        (Script(done=False), "PROVIDER_FAILED"),
        (Script(cut_after=7), "PROVIDER_FAILED"),
        (Script(stall_after=3), "DEADLINE_EXCEEDED"),
        (Script(stall_after=7), "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_stream_that_breaks_never_looks_complete(
    start: Start, upstream: Upstream, script: Script, reason: str
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI, idle_timeout_ms=200)
    upstream.default = script

    _, chunks, end = await collect(service.stream())

    assert (end.error, bool(end.error_message)) == (reason, True)
    assert not any(chunk.terminal for chunk in chunks)
    body = b"".join(chunk.body for chunk in chunks)
    assert b"[DONE]" not in body
    assert b'"finish_reason": "stop"' not in body
    assert end.generation.usage.output_tokens > 0
    assert end.generation.attempts[-1].error == reason
    assert service.component.health.snapshot()["provider:openai"][0] is False
    upstream.default = Script()
    await service.generate()
    assert service.component.health.snapshot()["provider:openai"][0] is True


async def test_leaving_a_stream_lets_go_of_the_provider_within_100_ms(
    start: Start, upstream: Upstream
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(stall_after=2)
    steps = service.stream()
    for _ in range(2):
        await anext(steps)

    left = time.monotonic()
    await steps.aclose()

    await eventually(lambda: upstream.disconnects)
    assert upstream.disconnects[0] - left < 0.1


@pytest.mark.parametrize("streaming", [False, True])
async def test_leaving_before_the_answer_lets_go_of_the_provider_within_100_ms(
    start: Start,
    upstream: Upstream,
    streaming: bool,
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(delay_s=30)
    waiting = collect(service.stream()) if streaming else service.generate()
    task = asyncio.ensure_future(waiting)
    await eventually(lambda: upstream.requests)

    left = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await eventually(lambda: upstream.disconnects)
    assert upstream.disconnects[0] - left < 0.1


async def test_a_client_that_does_not_read_holds_the_provider_back(
    start: Start, upstream: Upstream
) -> None:
    largest = 28 * 1024 * 1024
    service = await start(endpoint=upstream.base_url, **OPENAI, max_answer_bytes=largest)
    upstream.default = Script(text=" ".join(["x" * 50_000] * 500))
    steps = service.stream()
    await anext(steps)
    await anext(steps)
    await asyncio.sleep(0.5)

    await steps.aclose()

    await eventually(lambda: upstream.disconnects)


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_body_that_breaks_its_own_framing_is_the_providers_failure(
    start: Start, stack: AsyncExitStack, *, streaming: bool
) -> None:
    kind = b"text/event-stream" if streaming else b"application/json"
    event = b'data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind)
        writer.write(b"\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        # The event has to have arrived before what cannot be read does.
        await asyncio.sleep(0.1)
        writer.write(b"ZZZ\r\nnope")
        await writer.drain()
        writer.close()

    server = await stack.enter_async_context(await asyncio.start_server(answer, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    service = await start(endpoint=f"http://127.0.0.1:{port}/v1", **{**OPENAI, "retries": 0})

    if streaming:
        _, chunks, end = await collect(service.stream())
        assert b"".join(chunk.body for chunk in chunks) == event
        assert end.error == "PROVIDER_FAILED"
    else:
        with pytest.raises(Unavailable, match="broke in the middle"):
            await service.generate()
