"""Which records were pruned, as the log itself says: a record of its own names the range.

Whoever can delete files cannot write that record, since it is in the signed tree. So bundles that
are missing outside of it are damage.
"""

import msgspec

from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.merkle import TILE_WIDTH
from services.audit.note import NoteError
from services.audit.record import decode
from services.audit.tiles import ENTRIES, Tile, tile_at
from services.audit.verification.inventory import Files, NotAFileError, Source, read_entries

ACTION = "retention_pruned"
_OWN = "audit"
_MAX_MISSED = 64
"""Bundles that may be missing after the pruned ones before the search is given up."""


def pruning_attributes(end: int, cutoff: str, archived: str) -> dict[str, str]:
    """Return the attributes of the record that announces a pruning.

    Args:
        end: the first record that is kept; those before it are pruned.
        cutoff: everything pruned happened before this time.
        archived: where the pruned records were archived; empty where they were not.
    """
    return {
        "action": ACTION,
        "archive": archived,
        "end_record": str(end),
        "first_record": "0",
        "older_than": cutoff,
    }


def announced_end(entry: bytes) -> int:
    """Return the end of the pruning that an entry announces; 0 when it announces none."""
    if ACTION.encode() not in entry:
        return 0
    try:
        record = decode(entry)
    except (ValueError, msgspec.ValidationError):
        return 0
    instance = record.id.instance
    if record.type != "administration" or record.attributes.get("action") != ACTION:
        return 0
    if instance != _OWN and not instance.startswith(f"{_OWN}-"):
        return 0
    text = record.attributes.get("end_record", "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0  # noqa: PLR2004 - 64 bits


def recorded_pruning(source: Source) -> int:
    """Return the first record that a log has to keep, as its own records say; 0 for all.

    The records are looked for only where the first bundle is missing, newest first. That they are
    part of the tree is for the verification to prove.

    Raises:
        OSError: the source cannot be read.
    """
    try:
        size = parse_signed_checkpoint(source.checkpoint()).checkpoint.size
    except (FileNotFoundError, NotAFileError, NoteError):
        return 0
    files = source.files(size)
    if size < TILE_WIDTH or _bundle(files, 0, size) is not None:
        return 0
    missed = 0
    for number in range((size - 1) // TILE_WIDTH, -1, -1):
        found = _bundle(files, number, size)
        if found is None:
            missed += 1
            if missed > _MAX_MISSED:
                break
            continue
        if ACTION.encode() not in found[1]:
            continue
        entries, _ = read_entries(*found)
        ends = [announced_end(entry) for entry in entries[: size - number * TILE_WIDTH]]
        if end := max(ends, default=0):
            return min(end, number * TILE_WIDTH)
    return 0


def _bundle(files: Files, number: int, size: int) -> tuple[Tile, bytes] | None:
    """Return one bundle, without those that follow, which a source may fetch ahead."""
    tile = tile_at(ENTRIES, number, size)
    for candidate in dict.fromkeys((tile, tile.full)):
        data = files.read(candidate)
        if data is not None:
            return candidate, data
    return None
