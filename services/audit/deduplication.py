"""Which records are in the log already.

An append that is retried after a lost reply finds the index of the first time; the same id with
other content is a conflict. Ids and contents are remembered over a window of the newest records of
each peer, so that no peer can push another's out of it. Of ids from before the window it is known,
exactly, which were used: such a record is refused, since whether it is the same can no longer be
told; one that never came is new, however late it is.

What bounds the memory: the window of each peer; the gaps that one boot of an instance leaves, of
which the lowest is closed when there are too many; and the boots that have nothing in the window,
of which the one that was idle longest is forgotten.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from services.audit.record import RecordId
from services.audit.seen import Intervals
from services.common.errors import AlreadyExists

WINDOW = 100_000
MAX_GAPS = 1_024
MAX_BOOTS = 16_384
MAX_INTERVALS = 4 * MAX_BOOTS
_INDEX_SIZE = 8
_HASH_SIZE = 32
_DENSE = 4

_Boot = tuple[str, int]
"""An instance and its epoch."""


class Snapshot(msgspec.Struct, array_like=True):
    """What must outlive a restart; the records themselves are read from the log.

    Attributes:
        size: the log's, when it was taken.
        boots: instance, epoch, and the sequence numbers from before the window, as intervals.
        ranges: where the records of the windows lie: first index and the one after the last.
    """

    size: int
    boots: list[tuple[str, int, list[int]]]
    ranges: list[tuple[int, int]]


class _Stream:
    """The ids of one boot of one instance."""

    __slots__ = ("boot", "old", "peer", "places")

    def __init__(self, boot: _Boot, peer: "_Peer", old: Intervals) -> None:
        """`old` are the sequence numbers from before the window."""
        self.boot = boot
        self.peer = peer
        self.old = old
        self.places: dict[int, bytes] = {}
        """Leaf hash and index of each sequence number in the window."""


class _Peer:
    """The window of one peer, and the boots that have nothing in it, longest idle first."""

    __slots__ = ("idle", "intervals", "window")

    def __init__(self) -> None:
        self.window: deque[tuple[_Stream, int]] = deque()
        self.idle: dict[_Boot, None] = {}
        self.intervals = 0


class Deduplication:
    """Finds records by id.

    Args:
        window: how many records of each peer it remembers.
    """

    def __init__(self, window: int = WINDOW) -> None:
        """See the class."""
        self._window = window
        self._streams: dict[_Boot, _Stream] = {}
        self._peers: dict[str, _Peer] = {}

    def find(self, record_id: RecordId, leaf: bytes) -> int | None:
        """Return the index of a record that is in the log; None when it is new.

        Raises:
            AlreadyExists: the id is taken by other content, or too old to tell.
        """
        stream = self._streams.get((record_id.instance, record_id.epoch))
        if stream is None:
            return None
        place = stream.places.get(record_id.sequence)
        if place is None:
            if record_id.sequence in stream.old:
                msg = (
                    f"The record {record_id} came before, earlier than the newest {self._window} "
                    f"of its peer; whether this is the same can no longer be told."
                )
                raise AlreadyExists(msg)
            return None
        if place[:_HASH_SIZE] != leaf:
            msg = f"The record id {record_id} was used before with other content."
            raise AlreadyExists(msg)
        return _index(place)

    def add(self, record_id: RecordId, index: int, leaf: bytes) -> None:
        """Remember a record; nothing is forgotten before `settle`."""
        boot = (record_id.instance, record_id.epoch)
        stream = self._streams.get(boot) or self._stream(boot, Intervals())
        if not stream.places:
            stream.peer.idle.pop(boot, None)
        stream.places[record_id.sequence] = leaf + index.to_bytes(_INDEX_SIZE, "big")
        stream.peer.window.append((stream, record_id.sequence))

    def take_back(self, first: int) -> None:
        """Forget the records from an index on, since they did not become durable."""
        for peer in self._peers.values():
            while peer.window:
                stream, sequence = peer.window[-1]
                if _index(stream.places[sequence]) < first:
                    break
                peer.window.pop()
                del stream.places[sequence]
                if not stream.places:
                    self._rest(peer, stream)

    def settle(self) -> None:
        """Forget what has left the windows, now that what was added is durable."""
        for peer in self._peers.values():
            while len(peer.window) > self._window:
                stream, sequence = peer.window.popleft()
                del stream.places[sequence]
                peer.intervals -= len(stream.old)
                stream.old.add(sequence)
                if len(stream.old) > MAX_GAPS:
                    stream.old.close_lowest_gap()
                peer.intervals += len(stream.old)
                if not stream.places:
                    self._rest(peer, stream)

    def newest_epoch(self, instance: str) -> int:
        """Return the newest epoch of an instance that is remembered; 0 for none."""
        return max((epoch for name, epoch in self._streams if name == instance), default=0)

    def snapshot(self, size: int) -> Snapshot:
        """Return what must outlive a restart, of the records before an index."""
        boots = [(*boot, stream.old.pairs) for boot, stream in self._streams.items() if stream.old]
        ranges = [bounds for peer in self._peers.values() for bounds in _ranges(peer.window, size)]
        return Snapshot(size, boots, _merged(ranges))

    def restore(self, snapshot: Snapshot) -> None:
        """Begin with what a snapshot holds; the records of its windows are to be seeded."""
        for instance, epoch, pairs in snapshot.boots:
            stream = self._stream((instance, epoch), Intervals(pairs))
            stream.peer.idle[stream.boot] = None

    def seed(self, records: Iterable[tuple[int, RecordId, bytes]], *, whole: bool = True) -> None:
        """Take records of the log, with their indexes and leaf hashes, oldest first.

        Args:
            records: what to remember.
            whole: False when it is not known what came before: then whatever came before the
                first record of a boot is taken as seen, since a refusal is better than a second
                copy.
        """
        for index, record_id, leaf in records:
            boot = (record_id.instance, record_id.epoch)
            stream = self._streams.get(boot)
            if stream is None and not whole and record_id.sequence > 1:
                stream = self._stream(boot, Intervals((1, record_id.sequence - 1)))
            if stream is None or record_id.sequence not in stream.old:
                self.add(record_id, index, leaf)
                self.settle()

    def _stream(self, boot: _Boot, old: Intervals) -> _Stream:
        """Begin to remember a boot; the peer is the first part of its instance's name."""
        name = boot[0].partition("-")[0]
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = _Peer()
        peer.intervals += len(old)
        stream = self._streams[boot] = _Stream(boot, peer, old)
        return stream

    def _rest(self, peer: _Peer, stream: _Stream) -> None:
        """Keep a boot that has nothing in the window, as long as there is room."""
        if not stream.old:
            del self._streams[stream.boot]
            return
        stream.places = {}  # The old one keeps the room that it once needed.
        peer.idle[stream.boot] = None
        while len(peer.idle) > MAX_BOOTS or (peer.intervals > MAX_INTERVALS and peer.idle):
            oldest = next(iter(peer.idle))
            del peer.idle[oldest]
            peer.intervals -= len(self._streams.pop(oldest).old)


def _index(place: bytes) -> int:
    return int.from_bytes(place[_HASH_SIZE:], "big")


def _ranges(window: Iterable[tuple[_Stream, int]], size: int) -> Iterator[tuple[int, int]]:
    """Yield where the records of a window lie; in one piece where they lie close together."""
    places = list(window)
    if not places:
        return
    stream, sequence = places[0]
    first = _index(stream.places[sequence])
    if size - first <= _DENSE * len(places):
        yield first, size
        return
    for stream, sequence in places:
        index = _index(stream.places[sequence])
        if index < size:
            yield index, index + 1


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that touch as one."""
    merged: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged
