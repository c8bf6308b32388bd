"""A provider that costs next to nothing, for measuring what stands before it.

`python -m bench.model_upstream` prints its port. It speaks OpenAI's chat completions, and
Anthropic's messages at `/v1/messages`. A request with `"stream":true` gets `x-chunks` events,
`x-pause-us` microseconds apart, as a member or a text of it says (`x-chunks:9`); OpenAI's say when
they left. Everything else gets one answer.
"""

import asyncio
import json
import re
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvloop

from bench.suite import ANSWER

_LENGTH = re.compile(rb"content-length: *(\d+)")
_CHUNKS = re.compile(rb'x-chunks"?: ?(\d+)')
_PAUSE = re.compile(rb'x-pause-us"?: ?(\d+)')
_AT_ONCE = 32
"""Events of one stream before others have their turn."""
_SEND_BUFFER = 128 * 1024
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_MESSAGE: dict[str, Any] = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "bench",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 31, "output_tokens": 1},
}
_TEXT = json.loads(ANSWER)["choices"][0]["message"]["content"]
_ENDED = {"stop_reason": "end_turn", "stop_sequence": None}
_SAID = json.dumps(_MESSAGE | _ENDED | {"content": [{"type": "text", "text": _TEXT}]})
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


def _named(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


@dataclass(frozen=True)
class Dialect:
    """What a vendor says: a whole answer, and the beginning, one event and the end of a stream."""

    whole: bytes
    first: tuple[bytes, ...]
    event: bytes
    last: tuple[bytes, ...]


OPENAI = Dialect(ANSWER.encode(), (), _EVENT, _LAST)
ANTHROPIC = Dialect(
    _SAID.encode(),
    (
        _named({"type": "message_start", "message": _MESSAGE}),
        _named(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            }
        ),
        _named({"type": "ping"}),
    ),
    _named(
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": " word"},
        }
    ),
    (
        _named({"type": "content_block_stop", "index": 0}),
        _named({"type": "message_delta", "delta": _ENDED, "usage": {"output_tokens": 9}}),
        _named({"type": "message_stop"}),
    ),
)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(_told(head, _LENGTH))
            dialect = ANTHROPIC if b"/messages " in head else OPENAI
            if b'"stream":true' in body:
                await _stream(writer, dialect, _told(body, _CHUNKS), _told(body, _PAUSE))
            else:
                writer.write(_OK % (len(dialect.whole), dialect.whole))
    except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
        # uvloop says with the last that a transport is closed.
        writer.close()


async def _stream(
    writer: asyncio.StreamWriter, dialect: Dialect, chunks: int, pause_us: int
) -> None:
    writer.write(_HEAD + b"".join(map(_chunk, dialect.first)))
    stamped = b"%d" in dialect.event
    event = _chunk(dialect.event)
    for number in range(chunks):
        if pause_us or number % _AT_ONCE == 0:
            await asyncio.sleep(pause_us / 1e6)
        writer.write(_chunk(dialect.event % time.monotonic_ns()) if stamped else event)
        await writer.drain()
    writer.write(b"".join(map(_chunk, dialect.last)) + b"0\r\n\r\n")


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def _told(text: bytes, name: re.Pattern[bytes]) -> int:
    found = name.search(text)
    return int(found[1]) if found else 0


async def _main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    # On loopback the kernel would take megabytes of each stream that nobody reads.
    server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(_main())
