"""Computes a log's tree from its entries and compares it with every tile on the way.

Where a tile and what lies below it disagree, the level above decides which was changed, and the
check goes on with what was signed. A check may begin within the log, at the right edge of a tree
that an older checkpoint vouches for; then only what is newer is read.
"""

from collections.abc import Iterator, Sequence
from itertools import product

from services.audit.checkpoint import Checkpoint
from services.audit.merkle import (
    HASH_SIZE,
    TILE_HEIGHT,
    TILE_WIDTH,
    RightEdge,
    leaf_hash,
    root_of,
)
from services.audit.tiles import ENTRIES, Tile
from services.audit.verification.blame import Blame
from services.audit.verification.completeness import Completeness
from services.audit.verification.inventory import Files, read_entries, read_hashes

_UNKNOWN = bytes(HASH_SIZE)
"""Stands for the hash of an entry that cannot be had."""

_MAX_ROWS = 64
"""Upper tiles that are held at once; going through a log needs two or three of each level."""


class TreeCheck:
    """Checks the tree of one checkpoint.

    Args:
        files: where entries and tiles are.
        checkpoint: the newest checkpoint.
        older: checkpoints that must be in the tree; those before `start` are not looked for.
        blame: is told what is wrong.
        completeness: is given each record under the checkpoint.
        start: the first record to read, at a bundle's beginning; what lies before is taken from
            the tiles, and right only if an older checkpoint at or behind `start` is.
        pruned: bundles that end at or before this record need not be there; their tiles must.
    """

    def __init__(  # noqa: PLR0913 - what a check is about
        self,
        files: Files,
        checkpoint: Checkpoint,
        older: Sequence[Checkpoint],
        blame: Blame,
        completeness: Completeness,
        *,
        start: int = 0,
        pruned: int = 0,
    ) -> None:
        """See the class."""
        self._files = files
        self._checkpoint = checkpoint
        self._size = checkpoint.size
        self._older = sorted(
            (old for old in older if old.size >= start), key=lambda old: old.size, reverse=True
        )
        self._blame = blame
        self._completeness = completeness
        self._start = start
        self._pruned = pruned
        self._rows: dict[tuple[int, int], list[bytes]] = {}
        self._misshapen: set[Tile] = set()
        self._last = files.last(ENTRIES)
        self._last_tile = files.last(0)
        self._edge = RightEdge(start, self._starting_levels())

    def steps(self) -> Iterator[int]:
        """Check everything, a bundle a step; yield how many records are done."""
        number = self._start // TILE_WIDTH
        last = self._last
        self._grow([])
        if self._size == self._start:
            self._check_signed_edge()
        while number * TILE_WIDTH < self._size or number <= last:
            if self._nothing_from(number):
                self._blame.cut(number * TILE_WIDTH, self._size)
                self._older = [old for old in self._older if old.size > self._size]
                break
            leaves = self._check_bottom(number)
            first = number * TILE_WIDTH
            signed = max(0, min(len(leaves), self._size - first))
            self._grow(leaves[:signed])
            if first < self._size <= first + TILE_WIDTH:
                self._check_signed_edge()
            self._grow(leaves[signed:])
            number += 1
            yield min(number * TILE_WIDTH, self._size)
            if len(leaves) < TILE_WIDTH:
                break
        self._blame.report.beyond = max(0, self._edge.size - self._size)
        self._compare_open_edge()
        self._completeness.finish()
        self._blame.finish()
        for tile in self._files.unused(self._start):
            self._blame.inserted(tile)

    def _nothing_from(self, number: int) -> bool:
        """Say whether neither records nor hashes are there from a bundle on."""
        return number > max(self._last, self._last_tile)

    def _starting_levels(self) -> list[list[bytes]]:
        """Return the right edge at the start, as the tiles above the lowest level have it."""
        levels: list[list[bytes]] = [[]]
        while rows := self._start >> (TILE_HEIGHT * len(levels)):
            number, count = divmod(rows, TILE_WIDTH)
            row = self._row(len(levels), number)[:count] if count else []
            levels.append([*row, *[_UNKNOWN] * (count - len(row))])
        return levels

    def _row(self, level: int, number: int) -> list[bytes]:
        """Return the hashes of an upper tile, as far as they can be read."""
        row = self._rows.get((level, number))
        if row is None:
            found = self._files.widest(level, number)
            row = []
            if found is not None:
                row, problem = read_hashes(*found)
                if found[0] not in self._misshapen:
                    self._blame.form(found[0], problem)
                if problem:
                    self._misshapen.add(found[0])
            while len(self._rows) >= _MAX_ROWS:
                self._rows.pop(next(iter(self._rows)))
            self._rows[level, number] = row
        return row

    def _check_bottom(self, number: int) -> list[bytes]:
        """Compare an entry bundle with its tile; return the leaf hashes to go on with."""
        first = number * TILE_WIDTH
        width = max(0, min(TILE_WIDTH, self._size - first))
        bundle, tile = self._files.widest(ENTRIES, number), self._files.widest(0, number)
        entries, problem = ([], "") if bundle is None else read_entries(*bundle)
        row, tile_problem = ([], "") if tile is None else read_hashes(*tile)
        if bundle is None and first + TILE_WIDTH <= min(self._pruned, self._size):
            return self._take_pruned(number, row)
        leaves = [leaf_hash(entry) for entry in entries]
        for offset, entry in enumerate(entries[:width]):
            self._completeness.take(first + offset, entry)
        chosen = leaves
        if leaves[:width] != row[:width] or len(leaves) < width:
            if self._vouched(number, width, leaves):
                self._blame.tile(Tile(0, number, width), leaves[:width], row)
            else:
                self._blame.entries(number, width, leaves, row, last=number >= self._last)
                chosen = row[:width] if len(row) >= width else leaves[:width]
                chosen = [*chosen, *[_UNKNOWN] * (width - len(chosen)), *leaves[width:]]
        elif leaves[width : len(row)] != row[width : len(leaves)]:
            self._blame.beyond(Tile(0, number, len(row)))
        chosen = chosen[:TILE_WIDTH]
        if bundle is not None and not self._blame.knows(first, width):
            if problem and len(entries) > bundle[0].width:
                self._blame.appended(bundle[0])
            else:
                self._blame.form(bundle[0], problem)
        if tile is not None:
            self._blame.form(tile[0], tile_problem)
        self._check_narrower_bundles(number, chosen)
        self._check_narrower(0, number, chosen)
        return chosen

    def _take_pruned(self, number: int, row: list[bytes]) -> list[bytes]:
        """Go on with the hashes of records that are not kept any more."""
        self._completeness.skip(number * TILE_WIDTH, TILE_WIDTH)
        if len(row) == TILE_WIDTH and self._vouched(number, TILE_WIDTH, row):
            self._blame.report.pruned += TILE_WIDTH
        else:
            self._blame.entries(number, TILE_WIDTH, [], row, last=False)
            row = [*row, *[_UNKNOWN] * (TILE_WIDTH - len(row))]
        self._check_narrower(0, number, row)
        return row[:TILE_WIDTH]

    def _vouched(self, number: int, width: int, leaves: Sequence[bytes]) -> bool:
        """Say whether what lies above the lowest level has these leaf hashes."""
        if len(leaves) < width:
            return False
        if width == TILE_WIDTH:
            return root_of(leaves[:width]) == self._above(0, number)
        levels: list[Sequence[bytes]] = [leaves[:width]]
        while rows := self._size >> (TILE_HEIGHT * len(levels)):
            at, count = divmod(rows, TILE_WIDTH)
            levels.append(self._row(len(levels), at)[:count] if count else [])
        return RightEdge(self._size, levels).root() == self._checkpoint.root

    def _above(self, level: int, number: int) -> bytes | None:
        """Return the hash of a full tile as the tile above has it."""
        parent, offset = divmod(number, TILE_WIDTH)
        row = self._row(level + 1, parent)
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
        row = self._row(level, number)
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
            row = self._row(level, number)[: len(hashes)] if level and hashes else hashes
            candidates.append([hashes] if row == hashes else [hashes, row])
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
        if self._edge.root() == older.root:
            self._blame.agreed(older.size)
        else:
            self._blame.forked(older.size)
        if older.size > self._size:
            self._blame.rolled_back(older.size, self._size)

    def _compare_open_edge(self) -> None:
        """Compare the partial tiles at the very end, behind the checkpoint if it goes on there."""
        for older in self._older:
            self._blame.rolled_back(older.size, self._edge.size)
        for level, hashes in enumerate(self._edge.levels[1:], 1):
            number = self._edge.size >> (TILE_HEIGHT * (level + 1))
            row = self._row(level, number)
            signed = (self._size >> (TILE_HEIGHT * level)) - number * TILE_WIDTH
            if row[max(0, signed) : len(hashes)] != hashes[max(0, signed) : len(row)]:
                self._blame.beyond(Tile(level, number))
            self._check_narrower(level, number, hashes)

    def _check_narrower(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        """Compare the partial tiles that a wider one supersedes."""
        for width in self._files.widths(level, number)[:-1]:
            tile = Tile(level, number, width)
            data = self._files.read(tile)
            if data is not None and width <= len(hashes) and data != b"".join(hashes[:width]):
                self._blame.partial(tile, read_hashes(tile, data)[0], hashes)

    def _check_narrower_bundles(self, number: int, leaves: Sequence[bytes]) -> None:
        for width in self._files.widths(ENTRIES, number)[:-1]:
            tile = Tile(ENTRIES, number, width)
            data = self._files.read(tile)
            if data is None or width > len(leaves):
                continue
            entries, problem = read_entries(tile, data)
            found = [leaf_hash(entry) for entry in entries]
            if problem or found != leaves[:width]:
                self._blame.partial(tile, found, leaves)
