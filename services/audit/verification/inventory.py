"""What lies in a log's directory, every file of it, sorted by what the names say.

The directory may be an attacker's: only regular files are opened, never through a link, never one
that blocks, and never more of them is read than such a file can hold.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from services.audit.merkle import HASH_SIZE, TILE_HEIGHT, TILE_WIDTH
from services.audit.note import MAX_NOTE_SIZE
from services.audit.tiles import (
    ENTRIES,
    MAX_BUNDLE_SIZE,
    Tile,
    parse_path,
    split_hashes,
    unpack_entries,
)

CHECKPOINT = "checkpoint"
WITNESSED = "checkpoint.witnessed"
"""The newest checkpoint that a quorum of witnesses cosigned."""
_MAX_STRANGERS = 1_000
_MAX_DEPTH = 10


class Files(Protocol):
    """The files of a log at one moment, wherever they lie.

    Attributes:
        strangers: paths that no log has, the first thousand.
        listed: whether it is known what is there; else it is only known what has to be.
    """

    strangers: list[str]
    listed: bool

    def widths(self, level: int, number: int) -> list[int]:
        """Return the widths in which a tile is there, ascending; 256 is the full one."""
        ...

    def last(self, level: int) -> int:
        """Return the number of the last tile of a level; -1 when there is none."""
        ...

    def widest(self, level: int, number: int) -> tuple[Tile, bytes] | None:
        """Return the widest file of a tile, and its bytes."""
        ...

    def read(self, tile: Tile) -> bytes | None:
        """Return the bytes of a tile; None when it is not there any more."""
        ...

    def unused(self, start: int) -> Iterator[Tile]:
        """Yield the tiles that nobody asked for, of those that hold records from an index on."""
        ...


class Source(Protocol):
    """Where a log is read from."""

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        ...

    def files(self, size: int) -> Files:
        """Return the files of the log; a source without listings has those of a log of a size."""
        ...


class LogDirectory:
    """A log's directory as a source."""

    def __init__(self, log: Path) -> None:
        """See the class."""
        self._log = log

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint."""
        return read_regular(self._log / CHECKPOINT, MAX_NOTE_SIZE)

    def files(self, size: int) -> Files:  # noqa: ARG002 - a directory lists its files
        """Return the files that lie there now."""
        return Inventory(self._log)


class Inventory:
    """The files of a directory; a service that runs may add more, and remove partial tiles.

    Attributes:
        strangers: paths that no log has, the first thousand.
    """

    listed = True

    def __init__(self, log: Path) -> None:
        """Read the directory's names."""
        self._log = log
        self._full: dict[int, set[int]] = defaultdict(set)
        self._partial: dict[tuple[int, int], list[int]] = {}
        self._used: set[tuple[int, int]] = set()
        self.strangers: list[str] = []
        self._walk()

    def widths(self, level: int, number: int) -> list[int]:
        """Return the widths in which a tile lies here, ascending; 256 is the full one."""
        partial = sorted(self._partial.get((level, number), ()))
        return [*partial, TILE_WIDTH] if number in self._full[level] else partial

    def last(self, level: int) -> int:
        """Return the number of the last tile of a level; -1 when there is none."""
        partial = (number for at, number in self._partial if at == level)
        return max(max(self._full[level], default=-1), max(partial, default=-1))

    def widest(self, level: int, number: int) -> tuple[Tile, bytes] | None:
        """Return the widest file of a tile, and its bytes."""
        self._used.add((level, number))
        widths = self.widths(level, number)
        for width in dict.fromkeys([*reversed(widths), TILE_WIDTH]):
            tile = Tile(level, number, width)
            data = self.read(tile)
            if data is not None:
                return tile, data
        return None

    def read(self, tile: Tile) -> bytes | None:
        """Return the bytes of a tile; None when it is not there, or is not a plain file."""
        return read_tile(self._log, tile)

    def unused(self, start: int) -> Iterator[Tile]:
        """Yield the widest file of each tile that nobody asked for, from an index on."""
        names = {(level, number) for level, numbers in self._full.items() for number in numbers}
        for level, number in sorted((names | self._partial.keys()) - self._used):
            tile = Tile(level, number, max(self.widths(level, number)))
            if first_record(tile) + (1 << (TILE_HEIGHT * (max(level, 0) + 1))) > start:
                yield tile

    def _walk(self) -> None:
        pending = [("", self._log)]
        while pending:
            prefix, directory = pending.pop()
            try:
                found = sorted(os.scandir(directory), key=lambda item: item.name)
            except FileNotFoundError:
                continue  # A directory of partial tiles that was superseded this moment.
            for item in found:
                path = f"{prefix}{item.name}"
                if item.is_dir(follow_symlinks=False) and path.count("/") < _MAX_DEPTH:
                    pending.append((f"{path}/", directory / item.name))
                elif path not in (CHECKPOINT, WITNESSED) or not item.is_file(follow_symlinks=False):
                    self._take(path, regular=item.is_file(follow_symlinks=False))

    def _take(self, path: str, *, regular: bool) -> None:
        tile = parse_path(path.removeprefix("tile/")) if path.startswith("tile/") else None
        if tile is None or not regular:
            if len(self.strangers) < _MAX_STRANGERS:
                self.strangers.append(path)
        elif tile.width == TILE_WIDTH:
            self._full[tile.level].add(tile.number)
        else:
            self._partial.setdefault((tile.level, tile.number), []).append(tile.width)


class NotAFileError(OSError):
    """Something else than a plain file has a file's name."""


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a plain file, at most one more than a limit.

    Raises:
        NotAFileError: it is a link, a pipe, a device or a directory.
        OSError: it cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        if path.is_symlink():
            raise NotAFileError(error.errno, "not a plain file", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(0, "not a plain file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1)


def read_tile(log: Path, tile: Tile) -> bytes | None:
    """Return the bytes of a tile; None when it is not there, or is not a plain file."""
    try:
        return read_regular(log / file_name(tile), max_size(tile))
    except (FileNotFoundError, NotADirectoryError, NotAFileError):
        return None


def max_size(tile: Tile) -> int:
    """Return the most bytes that the file of a tile can hold."""
    return MAX_BUNDLE_SIZE if tile.level == ENTRIES else tile.width * HASH_SIZE


def first_record(tile: Tile) -> int:
    """Return the index of the first record that a tile is about."""
    return tile.number << (TILE_HEIGHT * (max(tile.level, 0) + 1))


def file_name(tile: Tile) -> str:
    """Return a tile's path below the log's directory."""
    return f"tile/{tile.path}"


def bundle_of(index: int) -> str:
    """Return the path of the full entry bundle that a record belongs to."""
    return file_name(Tile(ENTRIES, index // TILE_WIDTH))


def read_hashes(tile: Tile, data: bytes) -> tuple[list[bytes], str]:
    """Return the hashes of a tile's file and what is wrong with its form, if anything."""
    wanted = tile.width * HASH_SIZE
    have = f"over {wanted}" if len(data) > wanted else str(len(data))
    problem = "" if len(data) == wanted else f"has {have} bytes instead of {wanted}"
    return split_hashes(data[: min(wanted, len(data) // HASH_SIZE * HASH_SIZE)]), problem


def read_entries(tile: Tile, data: bytes) -> tuple[list[bytes], str]:
    """Return the entries of a bundle's file and what is wrong with its form, if anything.

    More entries than a bundle has are not looked at, whatever the file holds.
    """
    try:
        entries = unpack_entries(data, limit=TILE_WIDTH + 1)
    except ValueError as error:
        return _readable(data), str(error)
    if len(entries) > TILE_WIDTH:
        return entries, f"has over {TILE_WIDTH} records"
    problem = "" if len(entries) == tile.width else f"has {len(entries)} records, not {tile.width}"
    return entries, problem


def _readable(data: bytes) -> list[bytes]:
    """Return the entries of a bundle as far as their lengths make sense."""
    entries: list[bytes] = []
    position = 0
    while position + 2 <= len(data) and len(entries) <= TILE_WIDTH:
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if end > len(data):
            break
        entries.append(data[position + 2 : end])
        position = end
    return entries
