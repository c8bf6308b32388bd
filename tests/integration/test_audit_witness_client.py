"""What a witness can do to us over HTTP: nothing but fail, and soon."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from services.audit.witnesses.client import MAX_ANSWER, HTTPWitness, open_session
from services.audit.witnesses.witnessing import WitnessFailure

TOTAL_S = 0.5

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[str]:
    """Serve connections as a behaviour does, and return the address."""
    tasks: set[asyncio.Task[None]] = set()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await behaviour(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(behave(reader, writer)))

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(serve, "127.0.0.1", 0))

        async def end() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(end)
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/prefix/"


def answering(data: bytes) -> Behaviour:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /prefix/add-checkpoint HTTP/1.1\r\n"), head
        writer.write(data)
        await writer.drain()

    return behave


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(b"x" * 65_536)
        await writer.drain()


async def ask(behaviour: Behaviour) -> tuple[int, bytes, float]:
    async with serving(behaviour) as url, open_session(total_s=TOTAL_S) as session:
        answer = await HTTPWitness(session, url).add_checkpoint(b"old 0\n\n")
        return answer.status, answer.body, answer.retry_after_s


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (silent, "timeout"),
        (dripping, "timeout"),
        (endless, "garbage"),
        (answering(b""), "unreachable"),
        (answering(b"nonsense\r\n\r\n"), "unreachable"),
        (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"), "unreachable"),
        (answering(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000 + b"\r\n\r\n"), "unreachable"),
    ],
)
async def test_a_witness_that_misbehaves_is_a_failure_within_the_deadline(
    behaviour: Behaviour, reason: str
) -> None:
    started = asyncio.get_running_loop().time()
    with pytest.raises(WitnessFailure) as failed:
        await ask(behaviour)
    assert failed.value.reason == reason
    assert len(str(failed.value)) < 300
    assert asyncio.get_running_loop().time() - started < TOTAL_S + 2


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    assert (await ask(answering(redirect)))[0] == 302


async def test_an_answer_as_large_as_allowed_is_read() -> None:
    body = b"x" * MAX_ANSWER
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert await ask(answering(head + body)) == (200, body, 0.0)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"7", 7.0), (b"-7", 0.0), (b"soon", 0.0), (b"9" * 30, 0.0), (b"1e9", 0.0)],
)
async def test_a_witness_that_asks_for_time_is_understood(value: bytes, seconds: float) -> None:
    head = b"HTTP/1.1 503 Busy\r\nRetry-After: %s\r\nContent-Length: 0\r\n\r\n" % value
    assert await ask(answering(head)) == (503, b"", seconds)


async def test_a_witness_that_is_not_there_is_unreachable() -> None:
    async with open_session(total_s=TOTAL_S) as session:
        with pytest.raises(WitnessFailure) as failed:
            await HTTPWitness(session, "http://127.0.0.1:1").add_checkpoint(b"")
    assert failed.value.reason == "unreachable"
