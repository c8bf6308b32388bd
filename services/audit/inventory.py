"""What lies in a log's directory, every file of it, sorted by what the names say."""

import os
from collections import defaultdict
from pathlib import Path

from services.audit.merkle import HASH_SIZE, TILE_WIDTH
from services.audit.tiles import ENTRIES, Tile, parse_path, split_hashes, unpack_entries

CHECKPOINT = "checkpoint"


class Inventory:
    """The files of a log at one moment; a service that runs may add more, and remove partials.

    Attributes:
        strangers: paths that no log has.
        used: the tiles that somebody asked for.
    """

    def __init__(self, log: Path) -> None:
        """Read the directory's names."""
        self._log = log
        self._widths: dict[tuple[int, int], list[int]] = defaultdict(list)
        self.strangers: list[str] = []
        self.used: set[tuple[int, int]] = set()
        self._walk(log, "")

    def widths(self, level: int, number: int) -> list[int]:
        """Return the widths in which a tile lies here, ascending; 256 is the full one."""
        return sorted(self._widths.get((level, number), ()))

    def numbers(self, level: int) -> list[int]:
        """Return the numbers of a level's tiles, ascending."""
        return sorted(number for at, number in self._widths if at == level)

    @property
    def unused(self) -> list[Tile]:
        """The widest file of each tile that nobody asked for."""
        return sorted(
            Tile(level, number, max(widths))
            for (level, number), widths in self._widths.items()
            if (level, number) not in self.used
        )

    def widest(self, level: int, number: int) -> tuple[Tile, bytes] | None:
        """Return the widest file of a tile, and its bytes."""
        self.used.add((level, number))
        for width in [*reversed(self.widths(level, number)), TILE_WIDTH]:
            tile = Tile(level, number, width)
            data = self.read(tile)
            if data is not None:
                return tile, data
        return None

    def read(self, tile: Tile) -> bytes | None:
        """Return the bytes of a tile; None when it is not there any more."""
        try:
            return (self._log / "tile" / tile.path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _walk(self, directory: Path, prefix: str) -> None:
        try:
            found = sorted(os.scandir(directory), key=lambda item: item.name)
        except FileNotFoundError:
            return  # A directory of partial tiles that was superseded this moment.
        for item in found:
            path = f"{prefix}{item.name}"
            if item.is_dir(follow_symlinks=False):
                self._walk(directory / item.name, f"{path}/")
            elif path != CHECKPOINT or not item.is_file(follow_symlinks=False):
                self._take(path, regular=item.is_file(follow_symlinks=False))

    def _take(self, path: str, *, regular: bool) -> None:
        tile = parse_path(path.removeprefix("tile/")) if path.startswith("tile/") else None
        if tile is None or not regular:
            self.strangers.append(path)
        else:
            self._widths[tile.level, tile.number].append(tile.width)


def file_name(tile: Tile) -> str:
    """Return a tile's path below the log's directory."""
    return f"tile/{tile.path}"


def bundle_of(index: int) -> str:
    """Return the path of the full entry bundle that a record belongs to."""
    return file_name(Tile(ENTRIES, index // TILE_WIDTH))


def read_hashes(tile: Tile, data: bytes) -> tuple[list[bytes], str]:
    """Return the hashes of a tile's file and what is wrong with its form, if anything."""
    wanted = tile.width * HASH_SIZE
    problem = "" if len(data) == wanted else f"has {len(data)} bytes instead of {wanted}"
    return split_hashes(data[: min(wanted, len(data) // HASH_SIZE * HASH_SIZE)]), problem


def read_entries(tile: Tile, data: bytes) -> tuple[list[bytes], str]:
    """Return the entries of a bundle's file and what is wrong with its form, if anything."""
    try:
        entries = unpack_entries(data)
    except ValueError as error:
        return _readable(data), str(error)
    problem = "" if len(entries) == tile.width else f"has {len(entries)} records, not {tile.width}"
    return entries, problem


def _readable(data: bytes) -> list[bytes]:
    """Return the entries of a bundle as far as their lengths make sense."""
    entries: list[bytes] = []
    position = 0
    while position + 2 <= len(data):
        end = position + 2 + int.from_bytes(data[position : position + 2], "big")
        if end > len(data):
            break
        entries.append(data[position + 2 : end])
        position = end
    return entries
