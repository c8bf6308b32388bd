"""A snapshot of Valkey or Redis, taken as a replica takes it: nothing need run on its machine.

The store forks and sends its data as one RDB file. It needs a user that may `sync` and `replconf`;
managed stores forbid that, and make snapshots of their own. It refuses an answer that is no whole
RDB file.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from services.common.valkey import Address

_PIECE: Final = 256 * 1024
_MAGIC: Final = (b"REDIS", b"VALKEY")
_EOF_MARK = 40
_END = 0xFF
_CHECKSUM = 8


class SnapshotError(Exception):
    """No snapshot could be taken; the message is for operators."""


class Session:
    """A connection for one command after the other.

    Args:
        place: where the store is.
        timeout_s: how long it may say nothing.

    Raises:
        SnapshotError: nothing answers there, or it does not let us in.
    """

    def __init__(self, place: Address, timeout_s: float) -> None:
        """See the class."""
        self._place = place
        self._held = b""
        try:
            self._socket = _connect(place, timeout_s)
        except OSError as error:
            raise self._failed(error) from None
        if place.password:
            credentials = [place.username] if place.username else []
            self.ask("AUTH", *credentials, place.password)

    def ask(self, *words: str | bytes) -> object:
        """Send a command and return its reply: text, a number, None, or a list of them.

        Raises:
            SnapshotError: the store refuses, or does not answer.
        """
        return _text(self.ask_raw(*words))

    def ask_raw(self, *words: str | bytes) -> object:
        """Do the same, and return texts as the bytes that they are.

        Raises:
            SnapshotError: the store refuses, or does not answer.
        """
        self._send(words)
        return self._reply(words[0])

    def try_ask(self, *words: str | bytes, unless: str) -> bool:
        """Send a command; say whether the store did it, or refused with this code.

        Raises:
            SnapshotError: the store refuses otherwise, or does not answer.
        """
        self._send(words)
        line = self._line()
        if line.startswith(b"-") and line[1:].split(b" ")[0] == unless.encode():
            return False
        if not line.startswith(b"+"):
            raise SnapshotError(self._refused(words[0], line))
        return True

    def scan(self, cursor: bytes, count: str) -> tuple[bytes, list[bytes]]:
        """Return where to go on, and some keys.

        Raises:
            SnapshotError: the store refuses, or does not answer.
        """
        reply = self.ask_raw("SCAN", cursor, "COUNT", count)
        if isinstance(reply, list) and len(reply) == 2:  # noqa: PLR2004 - cursor, keys
            then, keys = reply
            if isinstance(then, bytes) and isinstance(keys, list):
                return then, [key for key in keys if isinstance(key, bytes)]
        msg = f"{self._place}: the store answers SCAN with something else"
        raise SnapshotError(msg)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def snapshot(self) -> Iterator[bytes]:
        """Return the RDB file, piece by piece; the connection is of no more use then.

        Raises:
            SnapshotError: the store refuses, or breaks off.
        """
        # A store that knows it sends nothing after the file; another goes on, and is cut off.
        self._send(("REPLCONF", "rdb-only", "1"))
        self._line()
        self._send(("SYNC",))
        head = self._line()
        while not head:
            head = self._line()  # It says that it is still there while it prepares.
        if not head.startswith(b"$"):
            raise SnapshotError(self._refused("SYNC", head))
        if head.startswith(b"$EOF:"):
            yield from _verified(self._until(head[5 : 5 + _EOF_MARK]))
        else:
            yield from _verified(self._exactly(int(head[1:])))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            data = self._some()
            piece, self._held = data[:size], data[size:]
            size -= len(piece)
            yield piece

    def _until(self, mark: bytes) -> Iterator[bytes]:
        held = b""
        while True:
            held += self._some()
            if held.endswith(mark):
                yield held[: -len(mark)]
                return
            if len(held) > len(mark):
                yield held[: -len(mark)]
                held = held[-len(mark) :]

    def _reply(self, asked: str | bytes) -> object:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"-":
            raise SnapshotError(self._refused(asked, line))
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"*":
            return [self._reply(asked) for _ in range(int(rest))]
        if kind == b"$" and int(rest) >= 0:
            text = b"".join(self._exactly(int(rest)))
            self._line()
            return text
        return None

    def _send(self, words: tuple[str | bytes, ...]) -> None:
        raw = [word.encode() if isinstance(word, str) else word for word in words]
        parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in raw]
        try:
            self._socket.sendall(b"*%d\r\n" % len(raw) + b"".join(parts))
        except OSError as error:
            raise self._failed(error) from None

    def _line(self) -> bytes:
        while b"\n" not in self._held:
            self._held += self._received()
        line, _, self._held = self._held.partition(b"\n")
        return line.rstrip(b"\r")

    def _some(self) -> bytes:
        held, self._held = self._held, b""
        return held or self._received()

    def _received(self) -> bytes:
        try:
            data = self._socket.recv(_PIECE)
        except OSError as error:
            raise self._failed(error) from None
        if not data:
            msg = f"{self._place}: the store closed the connection"
            raise SnapshotError(msg)
        return data

    def _failed(self, error: OSError) -> SnapshotError:
        return SnapshotError(f"{self._place}: {error.strerror or error}")

    def _refused(self, asked: str | bytes, line: bytes) -> str:
        name = asked.decode() if isinstance(asked, bytes) else asked
        code = line[1:].split(b" ")[0].decode(errors="replace")
        advice = {
            "NOAUTH": "set REDIS_PASSWORD",
            "WRONGPASS": "REDIS_PASSWORD or REDIS_USERNAME is another",
            "NOPERM": "the user needs `+sync +replconf +info +dbsize +hset`",
            "LOADING": "it loads its data; wait",
        }.get(code, "managed stores forbid it and make snapshots of their own")
        return f"{self._place}: the store answers {code} to {name}: {advice}"


@contextmanager
def session(place: Address, *, timeout_s: float = 60.0) -> Iterator[Session]:
    """Connect to a store, and leave it.

    Raises:
        SnapshotError: it cannot be reached, or does not let us in.
    """
    with ExitStack() as stack:
        opened = Session(place, timeout_s)
        stack.callback(opened.close)
        yield opened


def _text(reply: object) -> object:
    if isinstance(reply, bytes):
        return reply.decode(errors="replace")
    return [_text(one) for one in reply] if isinstance(reply, list) else reply


def _connect(place: Address, timeout_s: float) -> socket.socket:
    if place.unix_socket:
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(timeout_s)
        try:
            local.connect(str(place.unix_socket))
        except OSError:
            local.close()
            raise
        return local
    plain = socket.create_connection((place.host, place.port), timeout=timeout_s)
    if place.tls is None:
        return plain
    return place.tls.wrap_socket(plain, server_hostname=place.host)


def _verified(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pass an RDB file on, and refuse one that does not begin and end as one.

    Its checksum is looked at by the store that loads it: the recovery drill.
    """
    first, tail = b"", b""
    for piece in pieces:
        if len(first) < len(_MAGIC[1]):
            first += piece[: len(_MAGIC[1])]
            if len(first) >= len(_MAGIC[1]) and not first.startswith(_MAGIC):
                break
        tail = (tail + piece)[-1 - _CHECKSUM :]
        yield piece
    if not first.startswith(_MAGIC) or len(tail) <= _CHECKSUM or tail[0] != _END:
        msg = "the store sent no whole RDB file"
        raise SnapshotError(msg)
