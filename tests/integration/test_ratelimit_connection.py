"""The connection to the store: TLS, and servers that answer with nonsense or not at all."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common import certificates
from services.common.settings import load
from services.common.valkey import Address, Connection, open_connection
from services.common.valkey_settings import address
from services.ratelimit.ports import StoreUnavailable
from services.ratelimit.settings import RatelimitSettings
from tests.fakes.valkey import Valkey

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = b"%0\r\n"


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def listen(
    stack: AsyncExitStack, talk: Talk, *, tls: ssl.SSLContext | None = None
) -> tuple[str, int]:
    """Serve a conversation on loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    stack.push_async_callback(server.wait_closed)
    stack.callback(server.close)
    host, port = server.sockets[0].getsockname()[:2]
    return host, port


async def connect(stack: AsyncExitStack, where: Address, *, timeout_s: float = 0.5) -> Connection:
    connection = await open_connection(where, timeout_s=timeout_s)
    stack.callback(connection.close, "done")
    return connection


async def test_tls_verifies_the_server_and_carries_commands(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    settings = load(RatelimitSettings, state_dir=tmp_path, redis_host="localhost")
    certificates.ensure(settings)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = settings.tls_path
    own.load_cert_chain(tls / "ratelimit.pem", tls / "ratelimit-key.pem")
    valkey = stack.enter_context(Valkey(tmp_path))

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(str(valkey.socket))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)

        back = asyncio.create_task(pump(there_reader, writer))
        await pump(reader, there_writer)
        there_writer.close()
        await back

    _, port = await listen(stack, carry, tls=own)
    trusting = load(
        RatelimitSettings,
        redis_host="localhost",
        redis_port=port,
        redis_tls=True,
        redis_tls_ca=tls / "ca.pem",
    )
    connection = await connect(stack, address(trusting, client="test"))
    assert await connection.exchange([("PING",)]) == [b"PONG"]
    connection.close("done")
    stranger = load(RatelimitSettings, redis_host="localhost", redis_port=port, redis_tls=True)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await connect(stack, address(stranger, client="test"))


async def test_what_is_not_redis_is_refused(stack: AsyncExitStack) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    host, port = await listen(stack, web)
    with pytest.raises(StoreUnavailable, match="not the protocol of Redis"):
        await connect(stack, Address(host, port))


async def test_a_server_that_says_nothing_costs_one_deadline(stack: AsyncExitStack) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        await reader.read()

    host, port = await listen(stack, silent)
    with pytest.raises(StoreUnavailable, match="in time"):
        await connect(stack, Address(host, port), timeout_s=0.05)


async def test_a_reply_that_nobody_asked_for_ends_the_connection(stack: AsyncExitStack) -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(HELLO + b"+MORE\r\n")
        await reader.read()

    host, port = await listen(stack, eager)
    connection = await connect(stack, Address(host, port))
    await asyncio.wait_for(connection.lost.wait(), 1)
    with pytest.raises(StoreUnavailable, match="nobody asked for"):
        await connection.exchange([("PING",)])


async def test_pushed_messages_are_passed_over(stack: AsyncExitStack) -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b">1\r\n+news\r\n" + HELLO)
        await reader.read(100)
        writer.write(b">1\r\n+news\r\n+PONG\r\n")
        await reader.read()

    host, port = await listen(stack, chatty)
    connection = await connect(stack, Address(host, port))
    assert await connection.exchange([("PING",)]) == [b"PONG"]


async def test_a_late_reply_goes_to_nobody_and_the_next_one_to_its_own(
    stack: AsyncExitStack,
) -> None:
    late = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(HELLO)
        await reader.read(100)
        await late.wait()
        writer.write(b"+FIRST\r\n+SECOND\r\n")
        await reader.read()

    host, port = await listen(stack, slow)
    connection = await connect(stack, Address(host, port), timeout_s=0.1)
    with pytest.raises(StoreUnavailable, match="in time"):
        await connection.exchange([("ONE",)])
    second = asyncio.create_task(connection.exchange([("TWO",)]))
    await asyncio.sleep(0)
    late.set()
    assert await second == [b"SECOND"]


async def test_a_caller_that_leaves_does_not_shift_the_replies(stack: AsyncExitStack) -> None:
    answer = asyncio.Event()

    async def polite(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(HELLO)
        await answer.wait()
        writer.write(b"+FIRST\r\n+SECOND\r\n")
        await reader.read()

    host, port = await listen(stack, polite)
    connection = await connect(stack, Address(host, port))
    first = asyncio.create_task(connection.exchange([("ONE",)]))
    second = asyncio.create_task(connection.exchange([("TWO",)]))
    await asyncio.sleep(0)
    first.cancel()
    answer.set()
    assert await second == [b"SECOND"]


async def test_everybody_who_waits_learns_that_the_connection_is_lost(
    stack: AsyncExitStack,
) -> None:
    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(HELLO)
        await reader.read(100)

    host, port = await listen(stack, short)
    connection = await connect(stack, Address(host, port))
    calls = [asyncio.create_task(connection.exchange([("PING",)])) for _ in range(3)]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in done] == [StoreUnavailable] * 3
    connection.close("again")
    assert connection.reason == "connection closed by the store"


async def test_giving_up_while_connecting_leaves_nothing_open(stack: AsyncExitStack) -> None:
    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        gone.set()

    host, port = await listen(stack, silent)
    attempt = asyncio.create_task(open_connection(Address(host, port), timeout_s=30))
    await asyncio.sleep(0.05)
    attempt.cancel()
    await asyncio.wait_for(gone.wait(), 1)


async def test_a_server_that_never_shakes_hands_is_given_up(
    stack: AsyncExitStack, tmp_path: Path
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    host, port = await listen(stack, silent)
    where = Address(host, port, tls=ssl.create_default_context())
    with pytest.raises(StoreUnavailable, match="no connection in time"):
        await connect(stack, where, timeout_s=0.05)
