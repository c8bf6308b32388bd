"""Answers as streams: given out again, and copied while they arrive."""

from collections.abc import Callable
from typing import Final

import msgspec

from services.common.errors import WeaverError
from services.model.cache.entry import Entry
from services.model.cache.ports import CacheMeter
from services.model.call import Chunk, Generation, Headers, Usage
from services.model.ports import AnswerStream

HIT: Final = "hit"
MISS: Final = "miss"
MOST_HELD_BYTES: Final = 64 * 1024 * 1024
"""Of all streams under way; those beyond it are not kept."""
_PIECE: Final = 32 * 1024
"""A stream is given out again in pieces of about this size, so that it can be held back."""

Keep = Callable[[tuple[bytes, ...], Generation], None]


class Room:
    """Bounds what is held of streams under way.

    Args:
        max_entry_bytes: of one stream.
        meter: counts those that do not fit.
        most_bytes: of all streams.
    """

    def __init__(
        self, max_entry_bytes: int, meter: CacheMeter, most_bytes: int = MOST_HELD_BYTES
    ) -> None:
        """Begin with nothing held."""
        self.held_bytes = 0
        self._max_entry_bytes = max_entry_bytes
        self._most_bytes = most_bytes
        self._meter = meter

    def take(self, size: int, held: int) -> bool:
        """Return whether so much more of a stream may be held, of which `held` bytes are."""
        if held + size > self._max_entry_bytes:
            self._meter.cache_kept("too_large")
            return False
        if self.held_bytes + size > self._most_bytes:
            self._meter.cache_kept("busy")
            return False
        self.held_bytes += size
        return True

    def give_back(self, size: int) -> None:
        """Take note that so much is no longer held."""
        self.held_bytes -= size


class ReplayedStream:
    """An answer from the cache, as a stream.

    Args:
        entry: the answer.
        headers: what goes before it.
    """

    error: WeaverError | None = None

    def __init__(self, entry: Entry, headers: Headers) -> None:
        """See the class."""
        self.content_type = entry.content_type
        self.headers = headers
        self._entry = entry
        self._next = 0

    async def read(self) -> Chunk | None:
        """Return the next events; None at the end."""
        pieces = self._entry.pieces
        if self._next == len(pieces):
            return None
        self._next += 1
        return Chunk(pieces[self._next - 1], terminal=self._next == len(pieces))

    def generation(self) -> Generation:
        """Return what is known about the call."""
        return hit(self._entry)

    async def aclose(self) -> None:
        """End; nobody else is concerned."""


class CollectedStream:
    """An answer on its way, of which a copy is made.

    Args:
        stream: the answer.
        headers: what goes before it.
        room: bounds what is held.
        keep: is given the copy of an answer that came to its end, and what is known of the call.
    """

    def __init__(self, stream: AnswerStream, headers: Headers, room: Room, keep: Keep) -> None:
        """See the class."""
        self.content_type: str = stream.content_type
        self.headers = headers
        self._stream = stream
        self._room = room
        self._keep = keep
        self._pieces: list[bytearray] = []
        self._size = 0
        self._last = b""
        self._collects = True

    @property
    def error(self) -> WeaverError | None:
        """Why the answer is not whole; None while it arrives, and when it is."""
        return self._stream.error

    async def read(self) -> Chunk | None:
        """Return the next events; None at the end, whole or not."""
        chunk = await self._stream.read()
        if chunk is not None and self._collects:
            self._collect(chunk)
        return chunk

    def generation(self) -> Generation:
        """Return what is known about the call; to be asked once, after the end."""
        generation = self._stream.generation()
        if self._collects and self._stream.error is None and self._last:
            pieces = (*map(bytes, self._pieces), self._last)
            self._keep(pieces, generation)
        self._drop()
        return msgspec.structs.replace(generation, cache=MISS)

    async def aclose(self) -> None:
        """Let go of the provider, wherever the answer stands."""
        self._drop()
        await self._stream.aclose()

    def _collect(self, chunk: Chunk) -> None:
        size = len(chunk.body)
        if not self._room.take(size, self._size):
            self._drop()
            return
        self._size += size
        if chunk.terminal:
            self._last = chunk.body
            return
        if not self._pieces or len(self._pieces[-1]) >= _PIECE:
            self._pieces.append(bytearray())
        self._pieces[-1] += chunk.body

    def _drop(self) -> None:
        self._collects = False
        self._room.give_back(self._size)
        self._size = 0
        self._pieces.clear()
        self._last = b""


def hit(entry: Entry) -> Generation:
    """Return what is known about a call that nobody was asked."""
    return Generation(
        entry.provider,
        entry.model,
        Usage(),
        0,
        entry.price_version,
        (),
        entry.finish_reason,
        0.0,
        HIT,
        entry.request_id,
    )
