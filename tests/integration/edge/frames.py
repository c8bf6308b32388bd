"""HTTP/2 as an attacker speaks it: frames written by hand, with nobody who keeps the rules."""

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence

from hpack import Decoder, Encoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from tests.integration.edge.conftest import Edge

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GET = ((":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/health"))
HEAD_BYTES = 9
ANSWER_WITHIN_S = 5.0

Header = tuple[str, str]


class Connection:
    """One connection whose frames a test writes."""

    def __init__(self, edge: Edge) -> None:
        context = edge.trust
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(("127.0.0.1", edge.port), timeout=ANSWER_WITHIN_S)
        self._socket: ssl.SSLSocket = context.wrap_socket(plain, server_hostname="localhost")
        self._encoder, self._decoder = Encoder(), Decoder()
        self._read = b""
        self._socket.sendall(PREFACE + SettingsFrame(0).serialize())

    def headers(
        self, stream: int, headers: Sequence[Header] = GET, flags: Sequence[str] = ()
    ) -> bytes:
        """Return a HEADERS frame, whole unless the flags say otherwise."""
        frame = HeadersFrame(stream, self._encoder.encode(list(headers)))
        for flag in flags or ("END_HEADERS", "END_STREAM"):
            frame.flags.add(flag)
        return frame.serialize()

    def send(self, data: bytes) -> bool:
        """Send bytes, and return whether they could be."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def frames(self) -> Iterator[Frame]:
        """Yield what comes until the other side closes, or says nothing for a while."""
        with contextlib.suppress(OSError):
            while True:
                while len(self._read) >= HEAD_BYTES:
                    frame, length = Frame.parse_frame_header(memoryview(self._read[:HEAD_BYTES]))
                    if len(self._read) < HEAD_BYTES + length:
                        break
                    frame.parse_body(memoryview(self._read[HEAD_BYTES : HEAD_BYTES + length]))
                    self._read = self._read[HEAD_BYTES + length :]
                    yield frame
                more = self._socket.recv(65536)
                if not more:
                    return
                self._read += more

    def status(self, stream: int = 1) -> int | None:
        """Return the status of the answer to a stream; None when it or the connection is ended."""
        for frame in self.frames():
            if isinstance(frame, GoAwayFrame):
                return None
            if isinstance(frame, HeadersFrame):
                headers = dict(self._decoder.decode(bytes(frame.data), raw=True))
                if frame.stream_id == stream:
                    return int(headers[b":status"])
            elif isinstance(frame, RstStreamFrame) and frame.stream_id == stream:
                return None
        return None

    def is_closed_while_sending(self, data: bytes, *, within_s: float = ANSWER_WITHIN_S) -> bool:
        """Send the same bytes again and again, and return whether the other side has enough."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if not self.send(data):
                return True
        return False

    def close(self) -> None:
        self._socket.close()
