"""A gRPC client that costs a tenth of grpcio's, so that a measurement is of the server.

The client of a benchmark shares two processors with what it measures, and one from grpcio takes
about as much of them for a call as the service that answers. This one writes the frames of HTTP/2
by hand (RFC 9113, gRPC's PROTOCOL-HTTP2): unary calls, one header block for each method, nothing
compressed, no flow control of its own. It is for servers that are trusted to be right.
"""

import asyncio
import ssl
from collections.abc import Mapping
from struct import Struct
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4
_WINDOW = (1 << 31) - 1
_DEFAULT_WINDOW = 65_535
_FRAME_SIZE = 16_384
_LONGEST_LITERAL = 127
_FRAME_HEADER = Struct(">HBBBI")
_SETTING = Struct(">HI")
_NUMBER = Struct(">I")
_PREFIX = Struct(">BI")
_POST = b"\x83"
_SCHEMES = {"http": b"\x86", "https": b"\x87"}
"""Indexes of HPACK's static table."""


class Connection(asyncio.Protocol):
    """One HTTP/2 connection to a server of gRPC; see `connect`.

    Args:
        authority: what is asked for as.
        scheme: `http` or `https`.
    """

    def __init__(self, authority: str, scheme: str) -> None:
        """See the class."""
        self._authority = authority
        self._scheme = scheme
        self._transport: asyncio.Transport | None = None
        self._stream = 1
        self._buffer = b""
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._messages: dict[int, bytes] = {}

    def head(self, method: str, metadata: Mapping[str, str] | None = None) -> bytes:
        """Return the header block of calls of a method (`/package.Service/Method`)."""
        fields = {
            ":path": method,
            ":authority": self._authority,
            "te": "trailers",
            "content-type": "application/grpc",
            **(metadata or {}),
        }
        literals = [b"\x00" + _string(name) + _string(value) for name, value in fields.items()]
        return _POST + _SCHEMES[self._scheme] + b"".join(literals)

    def call(self, head: bytes, message: bytes) -> asyncio.Future[bytes]:
        """Send a message; the future holds the answer's.

        Cost: 20 to 40 microseconds of processor time, answer included.

        Raises:
            ConnectionError: through the future: the call was refused, or the connection ended.
        """
        assert self._transport is not None  # noqa: S101 - connected before anyone has it
        stream, self._stream = self._stream, self._stream + 2
        future = self._waiting[stream] = asyncio.get_running_loop().create_future()
        body = _PREFIX.pack(0, len(message)) + message
        cuts = range(0, len(body), _FRAME_SIZE)
        pieces = [body[start : start + _FRAME_SIZE] for start in cuts]
        frames = [_frame(_HEADERS, _END_HEADERS, stream, head)]
        frames += [_frame(_DATA, 0, stream, piece) for piece in pieces[:-1]]
        frames.append(_frame(_DATA, _END_STREAM, stream, pieces[-1]))
        self._transport.write(b"".join(frames))
        return future

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin HTTP/2, and let the server send as much as it likes."""
        self._transport = transport = cast("asyncio.Transport", transport)
        settings = _SETTING.pack(_INITIAL_WINDOW_SIZE, _WINDOW)
        window = _NUMBER.pack(_WINDOW - _DEFAULT_WINDOW)
        frames = _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, window)
        transport.write(_PREFACE + frames)

    def data_received(self, data: bytes) -> None:
        """Take frames."""
        buffer = self._buffer + data
        at, end = 0, len(buffer)
        while end - at >= _FRAME_HEADER.size:
            high, low, kind, flags, stream = _FRAME_HEADER.unpack_from(buffer, at)
            start = at + _FRAME_HEADER.size
            after = start + (high << 8 | low)
            if after > end:
                break
            self._take(kind, flags, stream, buffer[start:after])
            at = after
        self._buffer = buffer[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        for stream in list(self._waiting):
            self._settle(stream, str(exc or "the connection ended"))

    def _take(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - connected
        if kind == _DATA and body:
            self._messages[stream] = self._messages.get(stream, b"") + body
        if kind in {_DATA, _HEADERS} and flags & _END_STREAM:
            self._settle(stream, "the call was refused")
        elif kind in {_SETTINGS, _PING} and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, body if kind == _PING else b""))
        elif kind == _RST_STREAM:
            self._settle(stream, f"the call was reset ({_NUMBER.unpack(body)[0]})")
        elif kind == _GOAWAY:
            self._transport.close()

    def _settle(self, stream: int, error: str) -> None:
        """End a call: with its message, or where there is none with an error."""
        message = self._messages.pop(stream, None)
        future = self._waiting.pop(stream, None)
        if future is None or future.done():
            return
        if message is None:
            future.set_exception(ConnectionError(error))
        else:
            future.set_result(message[_PREFIX.size :])


async def connect(
    address: str, context: ssl.SSLContext | None = None, name: str | None = None
) -> Connection:
    """Connect to a server of gRPC.

    Args:
        address: host and port.
        context: for TLS; None for none.
        name: in the server's certificate.

    Raises:
        OSError: it cannot be reached, or is not trusted.
    """
    host, _, port = address.rpartition(":")
    scheme = "http"
    if context is not None:
        context.set_alpn_protocols(["h2"])
        scheme = "https"
    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(name or address, scheme),
        host,
        int(port),
        ssl=context,
        server_hostname=name if context is not None else None,
    )
    return connection


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    size = len(body)
    return _FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + body


def _string(text: str) -> bytes:
    """Return a string literal of HPACK, short and without Huffman's code."""
    data = text.encode()
    assert len(data) < _LONGEST_LITERAL  # noqa: S101 - longer ones need a longer length
    return bytes([len(data)]) + data
