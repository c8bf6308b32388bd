"""A provider that costs next to nothing, for measuring what stands before it.

`python -m bench.model_upstream` prints its port. A request with `"stream":true` gets `x-chunks`
events, `x-pause-us` microseconds apart; each says when it left. Everything else gets one answer.
"""

import asyncio
import socket
import sys
import time

import uvloop

from bench.suite import ANSWER

_AT_ONCE = 32
"""Events of one stream before others have their turn."""
_SEND_BUFFER = 128 * 1024
_BODY = ANSWER.encode()
_WHOLE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY)
) + _BODY
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"bench","choices":'
    b'[{"index":0,"delta":{"content":" word"},"finish_reason":null}],"at":%d}\n\n'
)
_LAST = (
    b'data: {"model":"bench","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n',
    b"data: [DONE]\n\n",
)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(_number(head, b"content-length"))
            if b'"stream":true' in body:
                await _stream(writer, _number(body, b'"x-chunks"'), _number(body, b'"x-pause-us"'))
            else:
                writer.write(_WHOLE)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _stream(writer: asyncio.StreamWriter, chunks: int, pause_us: int) -> None:
    writer.write(_HEAD)
    for number in range(chunks):
        if pause_us or number % _AT_ONCE == 0:
            await asyncio.sleep(pause_us / 1e6)
        writer.write(_chunk(_EVENT % time.monotonic_ns()))
        await writer.drain()
    writer.write(b"".join(_chunk(event) for event in _LAST) + b"0\r\n\r\n")


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _number(text: bytes, name: bytes) -> int:
    rest = text.partition(name + b":")[2].lstrip()
    digits = bytes(byte for byte in rest[:12].split(b",")[0].split(b"\r")[0] if 48 <= byte <= 57)  # noqa: PLR2004 - ASCII digits
    return int(digits or b"0")


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    # On loopback the kernel would take megabytes of each stream that nobody reads.
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
