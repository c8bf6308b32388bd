"""Streaming methods, as generators and as coroutines that return their last message."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int32Value

from services.common.interceptors.chain import Chain
from services.common.interceptors.errors import Errors

METHODS = {"/test.Stream/Generator", "/test.Stream/Coroutine"}
NUMBERS = "/test.Stream/Numbers"


async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def coroutine(request: bytes, context: Any) -> bytes:
    last = int(request) - 1
    for number in range(last):
        await context.write(b"%d" % number)
    context.set_trailing_metadata((("x-end", "here"),))
    return b"%d" % last


async def numbers(request: Int32Value, context: Any) -> Int32Value:
    last = request.value - 1
    for number in range(last):
        await context.write(Int32Value(value=number).SerializeToString())
    return Int32Value(value=last)


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server(interceptors=[Chain((Errors(),))])
    handlers: dict[str, Any] = {
        "Generator": grpc.unary_stream_rpc_method_handler(generator),
        "Coroutine": grpc.unary_stream_rpc_method_handler(coroutine),
        "Numbers": grpc.unary_stream_rpc_method_handler(
            numbers, Int32Value.FromString, Int32Value.SerializeToString
        ),
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


@pytest.mark.parametrize("count", [1, 3])
async def test_a_coroutine_streams_messages_of_protobuf(
    channel: grpc.aio.Channel, count: int
) -> None:
    method: Any = channel.unary_stream(NUMBERS, Int32Value.SerializeToString, Int32Value.FromString)
    replies = [reply.value async for reply in method(Int32Value(value=count))]
    assert replies == list(range(count))
