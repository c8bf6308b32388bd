"""Streams that nobody reads hold little, however much the provider would say."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import structlog

from tests.fakes.model_service import OPENAI, Start, starter

STREAMS = 30
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 1000)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Talker:
    """A provider that says as much as it is let."""

    def __init__(self) -> None:
        self.said = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        try:
            while True:
                writer.write(EVENT)
                await writer.drain()
                self.said += len(EVENT)
                await asyncio.sleep(0)
        except ConnectionError:
            writer.close()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["local", "grpc"])
def start(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Start:
    return starter(request.param, stack)


async def test_many_streams_that_nobody_reads_hold_little(
    start: Start, stack: AsyncExitStack
) -> None:
    talker = Talker()
    server = await asyncio.start_server(talker.serve, "127.0.0.1", 0)
    listening = server.sockets[0]
    # On loopback the kernel would take megabytes itself.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    service = await start(endpoint=address, **OPENAI)
    streams = [service.stream() for _ in range(STREAMS)]
    for steps in streams:
        await anext(steps)
        await anext(steps)

    before = -1
    async with asyncio.timeout(30):
        while talker.said != before:
            before = talker.said
            await asyncio.sleep(0.5)

    assert talker.said / STREAMS < 1024 * 1024
    with structlog.testing.capture_logs() as logs:
        for steps in streams:
            await steps.aclose()
        await asyncio.sleep(0.3)
    assert not [line for line in logs if line["log_level"] == "error"]
    server.close()
