"""Verifies a log as it lies on disk, with nothing but its files and public keys.

Every byte of every file is covered: entries by their leaf hashes, tiles by the hashes below and
above them, superseded partial tiles by the full ones, the checkpoint by its signatures and its one
spelling; a file that no log has is reported. Where a tile and what lies below it disagree, the
level above decides which was changed, and the verification goes on with what was signed.

The service may be writing meanwhile. What lies behind the checkpoint is compared with itself and
counted; nothing vouches for it before the next checkpoint.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from services.audit.blame import Blame
from services.audit.checkpoint import Checkpoint, SignedCheckpoint, parse_signed_checkpoint
from services.audit.completeness import Completeness
from services.audit.inventory import (
    CHECKPOINT,
    Inventory,
    file_name,
    read_entries,
    read_hashes,
)
from services.audit.merkle import (
    HASH_SIZE,
    TILE_HEIGHT,
    TILE_WIDTH,
    RightEdge,
    leaf_hash,
    root_of,
)
from services.audit.note import NoteError
from services.audit.report import Report
from services.audit.signatures import Keys, check_signatures
from services.audit.tiles import ENTRIES, Tile

_UNKNOWN = bytes(HASH_SIZE)
"""Stands for the hash of an entry that cannot be had."""

Progress = Callable[[int, int], None]


def verify(
    log: Path,
    keys: Keys,
    *,
    history: Sequence[SignedCheckpoint] = (),
    progress: Progress = lambda _done, _size: None,
) -> Report:
    """Verify a log and return what is found.

    Args:
        log: its directory.
        keys: who may sign.
        history: older checkpoints, which the log must still contain.
        progress: is told how many records of how many are done, now and then.
    """
    report = Report()
    blame = Blame(report)
    signed = None
    try:
        signed = parse_signed_checkpoint((log / CHECKPOINT).read_bytes())
    except FileNotFoundError:
        blame.damage("missing", "there is no checkpoint", path=CHECKPOINT)
    except NoteError as error:
        blame.damage("changed", f"{CHECKPOINT}: {error}", path=CHECKPOINT)
    inventory = Inventory(log)
    for stranger in inventory.strangers:
        blame.damage("inserted", f"{stranger} does not belong to a log", path=stranger)
    if signed is None:
        return report
    report.origin, report.size = signed.checkpoint.origin, signed.checkpoint.size
    check_signatures(signed, keys, report)
    for old in history:
        check_signatures(old, keys, report, newest=False)
    older = [old.checkpoint for old in history]
    _TreeCheck(inventory, signed.checkpoint, older, blame, progress).run()
    report.good_records = report.size - blame.bad_records(report.size)
    if report.passed("integrity") and report.passed("signatures"):
        report.checkpoints = 1 + len({old for old in older if old != signed.checkpoint})
    return report


class _TreeCheck:
    """Computes the tree from the entries and compares it with every tile on the way."""

    def __init__(
        self,
        inventory: Inventory,
        checkpoint: Checkpoint,
        older: Sequence[Checkpoint],
        blame: Blame,
        progress: Progress,
    ) -> None:
        """Prepare to check a tree against its checkpoints."""
        self._inventory = inventory
        self._checkpoint = checkpoint
        self._size = checkpoint.size
        self._older = sorted(older, key=lambda old: old.size, reverse=True)
        self._blame = blame
        self._progress = progress
        self._completeness = Completeness(blame.report)
        self._edge = RightEdge()
        self._upper: dict[tuple[int, int], list[bytes]] = {}

    def run(self) -> None:
        """Check everything."""
        self._read_upper_tiles()
        number = 0
        bundles = set(self._inventory.numbers(ENTRIES))
        while number * TILE_WIDTH < self._size or number in bundles:
            leaves = self._check_bottom(number)
            first = number * TILE_WIDTH
            signed = max(0, min(len(leaves), self._size - first))
            self._grow(leaves[:signed])
            if first < self._size <= first + TILE_WIDTH:
                self._check_signed_edge()
            self._grow(leaves[signed:])
            number += 1
            self._progress(min(number * TILE_WIDTH, self._size), self._size)
            if len(leaves) < TILE_WIDTH:
                break
        if not self._size:
            self._check_signed_edge()
        self._blame.report.beyond = self._edge.size - self._size
        self._compare_open_edge()
        self._completeness.finish()
        for tile in self._inventory.unused:
            message = f"{file_name(tile)} is no part of the tree"
            self._blame.damage("inserted", message, path=file_name(tile))

    def _read_upper_tiles(self) -> None:
        """Read every tile above the lowest level: a 256th of all hashes."""
        level = 1
        while numbers := self._inventory.numbers(level):
            for number in numbers:
                found = self._inventory.widest(level, number)
                if found is not None:
                    self._upper[level, number], problem = read_hashes(*found)
                    self._blame.form(found[0], problem)
            level += 1

    def _check_bottom(self, number: int) -> list[bytes]:
        """Compare an entry bundle with its tile; return the leaf hashes to go on with."""
        first = number * TILE_WIDTH
        width = max(0, min(TILE_WIDTH, self._size - first))
        bundle, tile = self._inventory.widest(ENTRIES, number), self._inventory.widest(0, number)
        entries, problem = ([], "") if bundle is None else read_entries(*bundle)
        row, tile_problem = ([], "") if tile is None else read_hashes(*tile)
        leaves = [leaf_hash(entry) for entry in entries]
        for offset, entry in enumerate(entries[:width]):
            self._completeness.take(first + offset, entry)
        chosen = leaves
        if leaves[:width] != row[:width] or len(leaves) < width:
            if self._vouched(number, width, leaves):
                self._blame.tile(Tile(0, number, width), leaves[:width], row)
            else:
                last = number >= max(self._inventory.numbers(ENTRIES), default=0)
                self._blame.entries(number, width, leaves, row, last=last)
                chosen = row[:width] if len(row) >= width else leaves[:width]
                chosen = [*chosen, *[_UNKNOWN] * (width - len(chosen)), *leaves[width:]]
        elif leaves[width : len(row)] != row[width : len(leaves)]:
            self._blame.beyond(Tile(0, number, len(row)))
        if bundle is not None and not self._blame.knows(first, width):
            self._blame.form(bundle[0], problem)
        if tile is not None:
            self._blame.form(tile[0], tile_problem)
        self._check_narrower_bundles(number, chosen)
        self._check_narrower(0, number, chosen)
        return chosen

    def _vouched(self, number: int, width: int, leaves: Sequence[bytes]) -> bool:
        """Say whether what lies above the lowest level has these leaf hashes."""
        if len(leaves) < width:
            return False
        if width == TILE_WIDTH:
            return root_of(leaves[:width]) == self._above(0, number)
        levels: list[Sequence[bytes]] = [leaves[:width]]
        while rows := self._size >> (TILE_HEIGHT * len(levels)):
            at, count = divmod(rows, TILE_WIDTH)
            levels.append(self._upper.get((len(levels), at), [])[:count])
        return RightEdge(self._size, levels).root() == self._checkpoint.root

    def _above(self, level: int, number: int) -> bytes | None:
        """Return the hash of a full tile as the tile above has it."""
        parent, offset = divmod(number, TILE_WIDTH)
        row = self._upper.get((level + 1, parent), [])
        return row[offset] if offset < len(row) else None

    def _grow(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes, stopping at each older checkpoint on the way."""
        position = 0
        while True:
            while self._older and self._older[-1].size == self._edge.size:
                self._check_older(self._older.pop())
            if position == len(leaves):
                return
            end = len(leaves)
            if self._older and self._older[-1].size > self._edge.size:
                end = min(end, position + self._older[-1].size - self._edge.size)
            for level, number, hashes in self._edge.append(leaves[position:end]):
                if level:
                    self._check_full_tile(level, number, hashes)
            position = end

    def _check_full_tile(self, level: int, number: int, hashes: list[bytes]) -> None:
        """Compare computed hashes with a full tile, and go on with those that were signed."""
        row = self._upper.get((level, number), [])
        if row != hashes:
            above = self._above(level, number)
            signed = (number + 1) << (TILE_HEIGHT * (level + 1)) <= self._size
            if len(row) == TILE_WIDTH and root_of(hashes) != above == root_of(row):
                self._blame.subtrees(Tile(level, number), hashes, row)
                hashes[:] = row
            elif signed:
                self._blame.tile(Tile(level, number), hashes, row)
            elif row[: len(hashes)] != hashes[: len(row)]:
                self._blame.beyond(Tile(level, number))
        self._check_narrower(level, number, hashes)

    def _check_signed_edge(self) -> None:
        """Find the hashes of the right edge that lead to the signed root."""
        candidates: list[list[list[bytes]]] = []
        for level, hashes in enumerate(self._edge.levels):
            number = self._size >> (TILE_HEIGHT * (level + 1))
            row = self._upper.get((level, number), [])[: len(hashes)]
            candidates.append([hashes] if not level or row == hashes else [hashes, row])
        for choice in product(*candidates):
            if RightEdge(self._size, choice).root() == self._checkpoint.root:
                break
        else:
            self._blame.forked(self._size)
            return
        for level, (options, chosen) in enumerate(zip(candidates, choice, strict=True)):
            if len(options) == 1:
                continue
            tile = Tile(level, self._size >> (TILE_HEIGHT * (level + 1)), len(options[0]))
            if chosen is options[0]:
                self._blame.tile(tile, options[0], options[1])
            else:
                self._blame.subtrees(tile, options[0], options[1])
            self._edge.levels[level] = list(chosen)

    def _check_older(self, older: Checkpoint) -> None:
        if self._edge.root() != older.root:
            self._blame.forked(older.size)

    def _compare_open_edge(self) -> None:
        """Compare the partial tiles at the very end, behind the checkpoint if it goes on there."""
        for older in self._older:
            message = f"a checkpoint of size {older.size} was published; this log is shorter"
            self._blame.damage("rolled back", message, index=self._edge.size, path=CHECKPOINT)
        for level, hashes in enumerate(self._edge.levels[1:], 1):
            number = self._edge.size >> (TILE_HEIGHT * (level + 1))
            row = self._upper.get((level, number), [])
            signed = (self._size >> (TILE_HEIGHT * level)) - number * TILE_WIDTH
            if row[max(0, signed) : len(hashes)] != hashes[max(0, signed) : len(row)]:
                self._blame.beyond(Tile(level, number))
            self._check_narrower(level, number, hashes)

    def _check_narrower(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        """Compare the partial tiles that a wider one supersedes."""
        for width in self._inventory.widths(level, number)[:-1]:
            tile = Tile(level, number, width)
            data = self._inventory.read(tile)
            if data is not None and width <= len(hashes) and data != b"".join(hashes[:width]):
                self._blame.partial(
                    tile, [data[i : i + 32] for i in range(0, len(data), 32)], hashes
                )

    def _check_narrower_bundles(self, number: int, leaves: Sequence[bytes]) -> None:
        for width in self._inventory.widths(ENTRIES, number)[:-1]:
            tile = Tile(ENTRIES, number, width)
            data = self._inventory.read(tile)
            if data is None or width > len(leaves):
                continue
            entries, problem = read_entries(tile, data)
            found = [leaf_hash(entry) for entry in entries]
            if problem or found != leaves[:width]:
                self._blame.partial(tile, found, leaves)
