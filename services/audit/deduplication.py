"""Which records are in the log already, over a window of the newest ones.

An append that is retried after a lost reply finds the index of the first time; the same id with
other content is a conflict. The window is a number of records. An id from before the window is
refused when its instance and boot have moved past it: better a refusal than a second copy.
"""

from collections.abc import Iterable

from services.audit.record import RecordId
from services.common.errors import AlreadyExists

WINDOW = 100_000
_MAX_STREAMS = 10_000


class _Stream:
    """The ids of one boot of one instance."""

    __slots__ = ("floor", "indexes")

    def __init__(self, floor: int) -> None:
        """Refuse what is at or below the floor and not in the window."""
        self.floor = floor
        self.indexes: dict[int, int] = {}


class Deduplication:
    """Finds records by id among the newest ones.

    Args:
        window: how many records it remembers.
    """

    def __init__(self, window: int = WINDOW) -> None:
        """See the class."""
        self._window = window
        self._slots: list[tuple[_Stream, int, bytes] | None] = [None] * window
        self._streams: dict[tuple[str, int], _Stream] = {}

    def seed(self, first: int, records: Iterable[tuple[RecordId, bytes]]) -> None:
        """Take the newest records of a log, from an index on, with their leaf hashes."""
        for index, (record_id, leaf) in enumerate(records, first):
            stream = (record_id.instance, record_id.epoch)
            if first and stream not in self._streams:
                self._streams[stream] = _Stream(record_id.sequence - 1)
            self.add(record_id, index, leaf)

    def find(self, record_id: RecordId, leaf: bytes) -> int | None:
        """Return the index of a record that is in the log; None when it is new.

        Raises:
            AlreadyExists: the id is taken by other content, or too old to tell.
        """
        stream = self._streams.get((record_id.instance, record_id.epoch))
        if stream is None:
            return None
        index = stream.indexes.get(record_id.sequence)
        if index is None:
            if record_id.sequence <= stream.floor:
                msg = f"The record id {record_id} is older than the last {self._window} records."
                raise AlreadyExists(msg)
            return None
        slot = self._slots[index % self._window]
        if slot is None or slot[2] != leaf:
            msg = f"The record id {record_id} was used before with other content."
            raise AlreadyExists(msg)
        return index

    def add(self, record_id: RecordId, index: int, leaf: bytes) -> None:
        """Remember a record; the one that leaves the window is forgotten."""
        key = (record_id.instance, record_id.epoch)
        stream = self._streams.get(key)
        if stream is None:
            self._forget_streams()
            stream = self._streams[key] = _Stream(0)
        position = index % self._window
        old = self._slots[position]
        if old is not None:
            old[0].indexes.pop(old[1], None)
            old[0].floor = max(old[0].floor, old[1])
        stream.indexes[record_id.sequence] = index
        self._slots[position] = (stream, record_id.sequence, leaf)

    def take_back(self, first: int, end: int) -> None:
        """Forget the records with these indexes, since they did not become durable."""
        for index in range(first, end):
            slot = self._slots[index % self._window]
            if slot is not None and slot[0].indexes.get(slot[1]) == index:
                del slot[0].indexes[slot[1]]
                self._slots[index % self._window] = None

    def _forget_streams(self) -> None:
        if len(self._streams) < _MAX_STREAMS:
            return
        for key in [key for key, stream in self._streams.items() if not stream.indexes]:
            del self._streams[key]
