"""What outlives a restart of who appended what: ids from before the newest records.

The records of the windows are read from the log itself. What is older is known only as intervals of
sequence numbers, which are written beside the log now and then; what came since is in the log. A
file that is missing or damaged costs the memory of what is older than the newest records, and an id
of a boot that was already under way is then refused rather than taken a second time.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
import structlog

from services.audit.deduplication import WINDOW, Deduplication, Snapshot
from services.audit.layout import Layout
from services.audit.merkle import TILE_WIDTH, leaf_hash
from services.audit.ports import Entry
from services.audit.record import RecordId, summarise
from services.audit.tiles import TileDirectory
from services.common.files import replace_file

_HASH_SIZE = 32

_log = structlog.get_logger()
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def load(
    layout: Layout, tiles: TileDirectory, size: int, behind: Iterable[Entry], minimum: int = 0
) -> Deduplication:
    """Return what a log remembers of its records; blocks on the disk.

    Args:
        layout: where it lies.
        tiles: its tiles.
        size: how many records they hold.
        behind: the durable records after these.
        minimum: the first record that the log keeps.
    """
    deduplication = Deduplication()
    snapshot = _read(layout.identities)
    if snapshot is None or snapshot.size > size:
        if snapshot is not None or layout.identities.exists():
            _log.warning("audit_identities_do_not_fit", path=str(layout.identities))
        first = max(minimum, size - WINDOW)
        deduplication.seed(_records(tiles, [(first, size)], size), whole=first == 0)
    else:
        deduplication.restore(snapshot)
        kept = ((max(first, minimum), end) for first, end in snapshot.ranges)
        ranges = [*kept, (snapshot.size, size)]
        deduplication.seed(_records(tiles, ranges, size))
    deduplication.seed((index, entry.id, entry.leaf) for index, entry in enumerate(behind, size))
    return deduplication


def save(layout: Layout, snapshot: Snapshot) -> None:
    """Write a snapshot down, durably and whole or not at all.

    Raises:
        OSError: the disk refuses; the one before stays.
    """
    data = _encoder.encode(snapshot)
    replace_file(layout.identities, sha256(data).digest() + data)


def _read(path: Path) -> Snapshot | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, body = data[:_HASH_SIZE], data[_HASH_SIZE:]
    if sha256(body).digest() != digest:
        return None
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        return None


def _records(
    tiles: TileDirectory, ranges: Iterable[tuple[int, int]], size: int
) -> Iterator[tuple[int, RecordId, bytes]]:
    """Yield index, id and leaf hash of the records in some ranges of the tree, in order."""
    number, entries = -1, list[bytes]()
    for first, end in ranges:
        for index in range(first, min(end, size)):
            if index // TILE_WIDTH != number:
                number = index // TILE_WIDTH
                entries = tiles.entries(number, size)
            entry = entries[index % TILE_WIDTH]
            yield index, summarise(entry).id, leaf_hash(entry)
