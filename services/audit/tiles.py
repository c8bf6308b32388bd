"""Tiles and entry bundles on disk, as C2SP tlog-tiles lays them out.

A full tile never changes once it is written. Partial tiles stay until the full one is there, since
a reader with an older checkpoint may still ask for them. Every write is atomic: whole in a
temporary file, synchronised, renamed.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from services.audit.merkle import HASH_SIZE, TILE_HEIGHT, TILE_WIDTH, root_of
from services.common.files import sync_directory

MAX_ENTRY_SIZE = 65_535
MAX_LEVEL = 63
ENTRIES = -1
"""Stands for the level of entry bundles."""

_LENGTH_SIZE = 2
_MAX_TILES = 256
MAX_BUNDLE_SIZE = TILE_WIDTH * (_LENGTH_SIZE + MAX_ENTRY_SIZE)
_PATH = re.compile(r"(entries|0|[1-9]\d?)/((?:x\d{3}/)*\d{3})(?:\.p/([1-9]\d{0,2}))?", re.ASCII)


class Tile(NamedTuple):
    """The name of a tile.

    `level` is `ENTRIES` for an entry bundle; `width` is 256 when the tile is full.
    """

    level: int
    number: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The path below `tile/`, such as `0/x001/234` or `entries/000.p/17`."""
        digits = f"{self.number:03d}"
        digits = digits.zfill(-(-len(digits) // 3) * 3)
        parts = [digits[i : i + 3] for i in range(0, len(digits), 3)]
        name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        level = "entries" if self.level == ENTRIES else str(self.level)
        suffix = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"{level}/{name}{suffix}"

    @property
    def full(self) -> "Tile":
        """The full tile that this one is, or will be, a part of."""
        return Tile(self.level, self.number)


def parse_path(path: str) -> Tile | None:
    """Return the tile that a path below `tile/` names; None unless it is spelt exactly so."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    level = ENTRIES if match[1] == "entries" else int(match[1])
    index = int(match[2].replace("x", "").replace("/", ""))
    width = int(match[3] or TILE_WIDTH)
    tile = Tile(level, index, width)
    if level > MAX_LEVEL or width > TILE_WIDTH or tile.path != path:
        return None
    return tile


def tile_at(level: int, index: int, size: int) -> Tile:
    """Return the tile as a tree of a size has it; its width is 0 beyond the tree."""
    rows = size >> (TILE_HEIGHT * max(level, 0))
    return Tile(level, index, max(0, min(TILE_WIDTH, rows - index * TILE_WIDTH)))


def tiles_of(size: int) -> Iterable[Tile]:
    """Yield the name of every tile and bundle of a tree of a size, full ones first per level."""
    for level in (ENTRIES, *range(MAX_LEVEL + 1)):
        rows = size >> (TILE_HEIGHT * max(level, 0))
        if rows == 0:
            return
        for index in range(rows // TILE_WIDTH):
            yield Tile(level, index)
        if rows % TILE_WIDTH:
            yield Tile(level, rows // TILE_WIDTH, rows % TILE_WIDTH)


def pack_entries(entries: Iterable[bytes]) -> bytes:
    """Return entries as a bundle: each after its length, a big-endian uint16."""
    return b"".join(
        part for entry in entries for part in (len(entry).to_bytes(_LENGTH_SIZE, "big"), entry)
    )


def unpack_entries(bundle: bytes, *, limit: int | None = None) -> list[bytes]:
    """Return the entries of a bundle, no more than a limit of them.

    Raises:
        ValueError: the bundle breaks off within an entry.
    """
    entries: list[bytes] = []
    position = 0
    while position < len(bundle) and len(entries) != limit:
        start = position + _LENGTH_SIZE
        position = start + int.from_bytes(bundle[position:start], "big")
        if start > len(bundle) or position > len(bundle):
            msg = f"the bundle breaks off within its entry {len(entries)}"
            raise ValueError(msg)
        entries.append(bundle[start:position])
    return entries


def split_hashes(data: bytes) -> list[bytes]:
    """Return the hashes of a tile."""
    return [data[i : i + HASH_SIZE] for i in range(0, len(data), HASH_SIZE)]


class TileDirectory:
    """Reads and writes tiles below `<log>/tile`.

    Args:
        log: the log's directory.
        scratch: where files are made before they are renamed; on the same file system.
    """

    def __init__(self, log: Path, scratch: Path) -> None:
        """See the class."""
        self.log = log
        self._scratch = scratch
        self._touched: set[Path] = set()
        self._known: set[Path] = set()

    def path(self, tile: Tile) -> Path:
        """Return where a tile lies."""
        return self.log / "tile" / tile.path

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile, cut out of the full tile when the partial one is gone.

        Raises:
            FileNotFoundError: neither is there.
            ValueError: the tile does not have its width.
        """
        try:
            data = self.path(tile).read_bytes()
        except FileNotFoundError:
            if tile.width == TILE_WIDTH:
                raise
            return cut(tile, self.path(tile.full).read_bytes())
        return cut(tile, data)

    def entries(self, index: int, size: int) -> list[bytes]:
        """Return the entries of the bundle at an index as a log of a size has it."""
        return unpack_entries(self.read(tile_at(ENTRIES, index, size)))

    def write(self, tile: Tile, data: bytes) -> None:
        """Write a tile, durably once `sync` has returned."""
        self.write_file(self.path(tile), data)

    def write_file(self, target: Path, data: bytes) -> None:
        """Write any file of the log atomically, durably once `sync` has returned."""
        self._make_directory(target.parent)
        temporary = self._scratch / "file"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(target)
        self._touched.add(target.parent)

    def sync(self) -> None:
        """Make the names of everything written durable."""
        while self._touched:
            directory = next(iter(self._touched))
            sync_directory(directory)
            self._touched.discard(directory)

    def remove_partials(self, tile: Tile) -> None:
        """Remove the partial tiles of a tile that is full now."""
        partials = self.path(Tile(tile.level, tile.number, 1)).parent
        if not partials.is_dir():
            return
        for partial in partials.iterdir():
            partial.unlink()
        partials.rmdir()

    def _make_directory(self, directory: Path) -> None:
        if directory in self._known:
            return
        if not directory.is_dir():
            self._make_directory(directory.parent)
            directory.mkdir(exist_ok=True)
            self._touched.add(directory.parent)
        if directory.suffix != ".p":
            self._known.add(directory)


class Readable(Protocol):
    """Where tiles are read from."""

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile of its very width."""
        ...


class TileReader:
    """Reads the hashes of subtrees from tiles, for proofs in the tree of one size.

    Some hundred tiles stay in memory: proofs of records that are near each other share them.
    """

    def __init__(self, directory: Readable, size: int) -> None:
        """See the class."""
        self._directory = directory
        self._size = size
        self._tiles: dict[tuple[int, int], list[bytes]] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the hash over the leaves from `index << level`, `1 << level` of them."""
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        tile_index, offset = divmod(first, TILE_WIDTH)
        hashes = self._hashes(tile_level, tile_index)
        return root_of(hashes[offset : offset + (1 << height)])

    def _hashes(self, level: int, index: int) -> Sequence[bytes]:
        hashes = self._tiles.get((level, index))
        if hashes is None:
            data = self._directory.read(tile_at(level, index, self._size))
            while len(self._tiles) >= _MAX_TILES:
                self._tiles.pop(next(iter(self._tiles)))
            hashes = self._tiles[level, index] = split_hashes(data)
        return hashes


def cut(tile: Tile, data: bytes) -> bytes:
    """Return the first `width` rows of a tile's bytes.

    Raises:
        ValueError: there are fewer.
    """
    if tile.level != ENTRIES:
        wanted = tile.width * HASH_SIZE
        if len(data) < wanted:
            msg = f"tile/{tile.path} holds {len(data)} bytes instead of {wanted}"
            raise ValueError(msg)
        return data[:wanted]
    position = 0
    for _ in range(tile.width):
        start = position + _LENGTH_SIZE
        position = start + int.from_bytes(data[position:start], "big")
        if start > len(data) or position > len(data):
            msg = f"tile/{tile.path} breaks off"
            raise ValueError(msg)
    return data[:position]
