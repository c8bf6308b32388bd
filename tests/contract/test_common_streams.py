"""Streaming methods, as generators and as coroutines that return their last message."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common.interceptors.chain import Chain

METHODS = {"/test.Stream/Generator", "/test.Stream/Coroutine"}


async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def coroutine(request: bytes, context: Any) -> bytes:
    last = int(request) - 1
    for number in range(last):
        await context.write(b"%d" % number)
    context.set_trailing_metadata((("x-end", "here"),))
    return b"%d" % last


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Chain(())])
    handlers: dict[str, Any] = {
        "Generator": grpc.unary_stream_rpc_method_handler(generator),
        "Coroutine": grpc.unary_stream_rpc_method_handler(coroutine),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Stream", handlers),)
    )
    address = f"unix:{tmp_path}/s"
    server.add_insecure_port(address)
    await server.start()
    async with grpc.aio.insecure_channel(address) as opened:
        yield opened
    await server.stop(0)


@pytest.mark.parametrize("path", sorted(METHODS))
@pytest.mark.parametrize("count", [1, 2, 5])
async def test_both_kinds_are_the_same_on_the_wire(
    channel: grpc.aio.Channel, path: str, count: int
) -> None:
    method: Any = channel.unary_stream(path)
    call = method(b"%d" % count)
    assert [message async for message in call] == [b"%d" % number for number in range(count)]
    assert await call.code() is grpc.StatusCode.OK
    trailers = dict(await call.trailing_metadata())
    assert trailers.get("x-end") == ("here" if path.endswith("Coroutine") else None)
