"""A log's files where names are not listed: those that a log of its size has."""

from collections.abc import Callable, Iterator

from services.audit.merkle import TILE_HEIGHT, TILE_WIDTH
from services.audit.tiles import Tile, tile_at
from services.audit.verification.inventory import LogDirectory, read_tile


class LogTail(LogDirectory):
    """A log's directory whose names are not listed, for going on from an older checkpoint."""

    def files(self, size: int) -> "SizedFiles":
        """Return the files that a log of a size has."""
        return SizedFiles(size, self._fetch)

    def _fetch(self, tile: Tile) -> tuple[Tile, bytes] | None:
        for candidate in dict.fromkeys((tile, tile.full)):
            data = read_tile(self._log, candidate)
            if data is not None:
                return candidate, data
        return None


class SizedFiles:
    """The files that a log of one size has, where nothing is listed.

    Args:
        size: the log's.
        fetch: returns a tile, or the full one that took its place.
    """

    listed = False

    def __init__(self, size: int, fetch: Callable[[Tile], tuple[Tile, bytes] | None]) -> None:
        """See the class."""
        self._size = size
        self._fetch = fetch
        self.strangers: list[str] = []

    def widths(self, level: int, number: int) -> list[int]:
        """Return the one width that a tile has."""
        tile = tile_at(level, number, self._size)
        return [tile.width] if tile.width else []

    def last(self, level: int) -> int:
        """Return the number of the last tile of a level; -1 when there is none."""
        return ((self._size >> (TILE_HEIGHT * max(level, 0))) - 1) // TILE_WIDTH

    def widest(self, level: int, number: int) -> tuple[Tile, bytes] | None:
        """Return a tile; None when it is not there, or a log of this size has none."""
        tile = tile_at(level, number, self._size)
        return self._fetch(tile) if tile.width else None

    def read(self, tile: Tile) -> bytes | None:
        """Return the bytes of a tile."""
        found = self._fetch(tile)
        return None if found is None or found[0] != tile else found[1]

    def unused(self, start: int) -> Iterator[Tile]:  # noqa: ARG002 - nothing is listed
        """Yield nothing: what else is there is not known."""
        return iter(())
