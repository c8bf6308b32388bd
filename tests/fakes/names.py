"""A name server as a cluster has one: each name has its pods' addresses, and news take a while."""

import socket
import struct
import threading
import time
from types import TracebackType
from typing import Self

_A, _IN = 1, 1
_ANSWERED, _NO_SUCH_NAME = 0x8580, 0x8583


class Names:
    """Answers for `name.test` by UDP, on a port of its own of this machine.

    Args:
        late_s: for how long a change is not told, as by a cache in between.
        forgetful: whether it says nothing to a question that it was not asked twice.
    """

    def __init__(self, late_s: float, *, forgetful: bool = False) -> None:
        """See the class."""
        self._late_s = late_s
        self._forgetful = forgetful
        self._asked: set[tuple[object, bytes]] = set()
        self._changes: dict[str, list[tuple[float, tuple[str, ...]]]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def port(self) -> int:
        """Where it answers."""
        return int(self._socket.getsockname()[1])

    def now(self, name: str) -> tuple[str, ...]:
        """Return the addresses of a name, those that nobody was told of too."""
        changes = self._changes.get(name)
        return changes[-1][1] if changes else ()

    def add(self, name: str, address: str) -> None:
        """Have a pod among those of a name."""
        self._change(name, (*self.now(name), address))

    def remove(self, name: str, address: str) -> None:
        """Have it there no more."""
        self._change(name, tuple(one for one in self.now(name) if one != address))

    def _change(self, name: str, addresses: tuple[str, ...]) -> None:
        self._changes.setdefault(name, []).append((time.monotonic(), addresses))

    def _told(self, name: str) -> tuple[str, ...]:
        until = time.monotonic() - self._late_s
        changes = list(self._changes.get(name, ()))
        # The first is told at once: nobody asked before.
        known = [addresses for when, addresses in changes[1:] if when <= until]
        return known[-1] if known else changes[0][1] if changes else ()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4096)
            if not question:
                return
            if self._forgetful and (asker, question[12:]) not in self._asked:
                self._asked.add((asker, question[12:]))
                continue
            labels, place = [], 12
            while length := question[place]:
                labels.append(question[place + 1 : place + 1 + length].decode().lower())
                place += 1 + length
            kind = struct.unpack_from(">H", question, place + 1)[0]
            name = ".".join(labels).removesuffix(".test")
            addresses = self._told(name) if kind == _A else ()
            flags = _ANSWERED if name in self._changes else _NO_SUCH_NAME
            reply = question[:2] + struct.pack(">HHHHH", flags, 1, len(addresses), 0, 0)
            reply += question[12 : place + 5]
            for address in addresses:
                reply += struct.pack(">HHHIH", 0xC00C, _A, _IN, 1, 4) + socket.inet_aton(address)
            self._socket.sendto(reply, asker)

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answer no more."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
