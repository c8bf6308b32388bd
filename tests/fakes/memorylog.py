"""A log in memory, of any size and as a forger would leave it, for the tests of the verifier."""

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from services.audit.checkpoint import Checkpoint, SignedCheckpoint
from services.audit.keys.signers import Signer
from services.audit.merkle import TILE_WIDTH, RightEdge, leaf_hash, root_of
from services.audit.note import sign_note
from services.audit.tiles import ENTRIES, Tile, pack_entries, tiles_of
from services.audit.verification.inventory import first_record
from tests.fakes.biglog import ORIGIN, entry, signer


@lru_cache(maxsize=1)
def _plain() -> tuple[list[bytes], list[bytes]]:
    """Return 70,000 records and their hashes, made once a run."""
    made = [entry(sequence) for sequence in range(1, 70_001)]
    return [one.data for one in made], [one.leaf for one in made]


def plain_entries(size: int) -> list[bytes]:
    """Return the first records of a log that nobody meddled with."""
    return _plain()[0][:size]


class MemoryLog:
    """The files of a log; a source for verification.

    Args:
        entries: its records.
        who: signs its checkpoint.
        signed: the checkpoint to show instead of one of its own.
    """

    listed = True

    def __init__(
        self,
        entries: Sequence[bytes],
        who: Sequence[Signer] = (),
        signed: SignedCheckpoint | None = None,
    ) -> None:
        known_entries, known_leaves = _plain()
        self.entries = list(entries)
        self.strangers: list[str] = []
        self.changed: dict[str, bytes | None] = {}
        leaves = [
            known if one is plain else leaf_hash(one)
            for one, plain, known in zip(self.entries, known_entries, known_leaves, strict=False)
        ]
        self._levels = [leaves]
        while len(self._levels[-1]) >= TILE_WIDTH:
            row = self._levels[-1]
            full = len(row) // TILE_WIDTH
            self._levels.append(
                [root_of(row[i * TILE_WIDTH : (i + 1) * TILE_WIDTH]) for i in range(full)]
            )
        self.signed = signed or self.sign(len(self.entries), who)
        self.note = str(self.signed.note).encode()
        self._widths: dict[tuple[int, int], set[int]] = {}
        for tile in tiles_of(len(self.entries)):
            self._widths[tile.level, tile.number] = {tile.width}
        self._used: set[tuple[int, int]] = set()

    def root(self, size: int) -> bytes:
        """Return the root of the first records."""
        rows = [
            level[(size >> (8 * (at + 1))) << 8 : size >> (8 * at)]
            for at, level in enumerate(self._levels)
        ]
        return RightEdge(size, rows).root()

    def sign(self, size: int, who: Sequence[Signer] = ()) -> SignedCheckpoint:
        """Return a checkpoint over the first records."""
        checkpoint = Checkpoint(ORIGIN, size, self.root(size))
        return SignedCheckpoint(checkpoint, sign_note(checkpoint.text, who or (signer(),)))

    def edit_bundle(self, number: int, edit: Callable[[list[bytes]], None]) -> None:
        """Change the records of one bundle's file and nothing else."""
        tile = Tile(ENTRIES, number, self.widths(ENTRIES, number)[-1])
        part = self.entries[number * TILE_WIDTH : (number + 1) * TILE_WIDTH]
        edit(part)
        self.changed[tile.path] = pack_entries(part)

    def rewrite_bundles(self, entries: Sequence[bytes]) -> None:
        """Put other records into the bundles and leave the tiles as they are."""
        wanted = [entries[i : i + TILE_WIDTH] for i in range(0, len(entries), TILE_WIDTH)]
        for at in [at for at in self._widths if at[0] == ENTRIES]:
            del self._widths[at]
        for number, part in enumerate(wanted):
            path = Tile(ENTRIES, number, len(part)).path
            self._widths[ENTRIES, number] = {len(part)}
            if list(part) != self.entries[number * TILE_WIDTH : (number + 1) * TILE_WIDTH]:
                self.changed[path] = pack_entries(part)

    def checkpoint(self) -> bytes:
        """Return the bytes of the checkpoint."""
        return self.note

    def files(self, size: int) -> "MemoryLog":
        """Return the files, which are this log's."""
        self._used = set()
        return self

    def widths(self, level: int, number: int) -> list[int]:
        """Return the widths in which a tile is there."""
        return sorted(self._widths.get((level, number), ()))

    def last(self, level: int) -> int:
        """Return the number of the last tile of a level."""
        return max((number for at, number in self._widths if at == level), default=-1)

    def widest(self, level: int, number: int) -> tuple[Tile, bytes] | None:
        """Return the widest file of a tile."""
        self._used.add((level, number))
        for width in reversed(self.widths(level, number)):
            data = self.read(Tile(level, number, width))
            if data is not None:
                return Tile(level, number, width), data
        return None

    def read(self, tile: Tile) -> bytes | None:
        """Return the bytes of a tile."""
        if tile.path in self.changed:
            return self.changed[tile.path]
        if tile.width not in self.widths(tile.level, tile.number):
            return None
        first = tile.number * TILE_WIDTH
        if tile.level == ENTRIES:
            return pack_entries(self.entries[first : first + tile.width])
        return b"".join(self._at(tile.level)[first : first + tile.width])

    def unused(self, start: int) -> Iterator[Tile]:
        """Yield the tiles that nobody asked for."""
        for (level, number), widths in sorted(self._widths.items()):
            tile = Tile(level, number, max(widths))
            end = first_record(tile) + (TILE_WIDTH << (8 * max(level, 0)))
            if (level, number) not in self._used and end > start:
                yield tile

    def _at(self, level: int) -> list[bytes]:
        return self._levels[level] if level < len(self._levels) else []


def unsigned(signed: SignedCheckpoint, size: int, root: bytes) -> bytes:
    """Return a checkpoint whose text was changed and whose signatures were not."""
    text = f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n"
    return str(signed.note._replace(text=text)).encode()
