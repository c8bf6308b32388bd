"""Reads a log without the service: for auditors, and while the service is down.

It trusts what it reads no further than a reader needs; `verifier` is what proves it.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

from services.audit.archives.pruning import recorded_pruning
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.history import read_history
from services.audit.index import Filter
from services.audit.layout import Layout
from services.audit.matching import matches
from services.audit.merkle import TILE_WIDTH
from services.audit.note import MAX_NOTE_SIZE, NoteError
from services.audit.receipt import Receipt, make_receipt
from services.audit.record import summarise
from services.audit.tiles import Tile, TileDirectory, TileReader
from services.audit.verification.inventory import (
    CHECKPOINT,
    WITNESSED,
    LogDirectory,
    NotAFileError,
    Source,
    read_regular,
)

_SLASHES_OF_AN_ID = 2


class OfflineError(Exception):
    """The directory cannot be read as a log; the message is for people."""


class TileSource(Protocol):
    """Where a log's files are read from."""

    @property
    def source(self) -> Source:
        """The same place, as a verification reads it."""
        ...

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint.

        Raises:
            OSError: it cannot be had.
        """
        ...

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile.

        Raises:
            OSError: it cannot be had.
            ValueError: it does not have its width.
        """
        ...

    def entries(self, index: int, size: int) -> list[bytes]:
        """Return the entries of the bundle at an index as a log of a size has it.

        Raises:
            OSError: it cannot be had.
            ValueError: it does not have its width.
        """
        ...


class Listed(NamedTuple):
    """A page of a listing; the token is empty on the last."""

    records: list[tuple[int, bytes]]
    next_token: str


class _Directory(TileDirectory):
    """A log's directory."""

    @property
    def source(self) -> Source:
        """The directory."""
        return LogDirectory(self.log)

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint."""
        return read_regular(self.log / CHECKPOINT, MAX_NOTE_SIZE)


class OfflineLog:
    """The records under the checkpoint of a log.

    Args:
        place: the log's directory, or where else its files are read from.

    Raises:
        OfflineError: there is no readable checkpoint.
    """

    def __init__(self, place: Path | TileSource) -> None:
        """See the class."""
        self._tiles: TileSource = _Directory(place, place) if isinstance(place, Path) else place
        name = f"{place}: " if isinstance(place, Path) else ""
        try:
            self.checkpoint: SignedCheckpoint = parse_signed_checkpoint(self._tiles.checkpoint())
        except FileNotFoundError:
            msg = f"{name}there is no log: there is no checkpoint"
            raise OfflineError(msg) from None
        except (OSError, NoteError) as error:
            msg = f"{name}{CHECKPOINT}: {error}"
            raise OfflineError(msg) from None

        self._hashes = TileReader(self._tiles, self.size)

    @property
    def size(self) -> int:
        """How many records the checkpoint covers."""
        return self.checkpoint.checkpoint.size

    @cached_property
    def first_kept(self) -> int:
        """The first record that was not pruned, as the log itself says.

        Raises:
            OSError: the log cannot be read.
        """
        return recorded_pruning(self._tiles.source)

    def entry(self, index: int) -> bytes:
        """Return the entry at an index.

        Raises:
            OfflineError: the log is shorter, or the bundle cannot be read.
        """
        if not 0 <= index < self.size:
            msg = f"the log has no record {index}; its checkpoint covers {self.size}"
            raise OfflineError(msg)
        if index < self.first_kept:
            msg = (
                f"record {index} was pruned: the log keeps records from {self.first_kept} on, and "
                f"every hash. Its archive may have more."
            )
            raise OfflineError(msg)
        return self.bundle(index // TILE_WIDTH)[index % TILE_WIDTH]

    def receipt(self, index: int) -> Receipt:
        """Return the receipt of a record.

        Raises:
            OfflineError: the log is shorter, or a tile cannot be read.
        """
        if not 0 <= index < self.size:
            msg = f"the log has no record {index}; its checkpoint covers {self.size}"
            raise OfflineError(msg)
        try:
            return make_receipt(index, self._hashes, self.checkpoint)
        except (OSError, ValueError) as error:
            msg = f"a tile cannot be read: {error}"
            raise OfflineError(msg) from None

    def find(
        self, wanted: Filter, *, ascending: bool = False, after: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the records that match, newest first unless asked otherwise.

        Args:
            wanted: which.
            ascending: oldest first.
            after: go on behind this index.

        Raises:
            OfflineError: a bundle cannot be read.
        """
        if ascending:
            first = max(self.first_kept, 0 if after is None else after + 1)
            for number in range(first // TILE_WIDTH, -(-self.size // TILE_WIDTH)):
                for index, entry in enumerate(self.bundle(number), number * TILE_WIDTH):
                    if index >= first and _fits(wanted, entry):
                        yield index, entry
            return
        end = self.size if after is None else min(after, self.size)
        last = self.first_kept // TILE_WIDTH
        for number in range(-(-end // TILE_WIDTH) - 1, last - 1, -1):
            bundle = list(enumerate(self.bundle(number), number * TILE_WIDTH))
            for index, entry in reversed(bundle):
                if index < end and _fits(wanted, entry):
                    yield index, entry

    def page(self, wanted: Filter, *, limit: int, token: str, ascending: bool) -> Listed:
        """Return a page of the records that match; the same token gives the same page.

        Raises:
            OfflineError: the token is none, or a bundle cannot be read.
        """
        if token and not (token.isascii() and token.isdecimal()):
            msg = f"{token!r} is no page of this listing"
            raise OfflineError(msg)
        after = int(token) if token else None
        found = list(islice(self.find(wanted, ascending=ascending, after=after), limit + 1))
        return Listed(found[:limit], str(found[limit - 1][0]) if len(found) > limit else "")

    def named(self, name: str) -> list[int]:
        """Return the index that a name is, or those of the records that have it as an id.

        Args:
            name: an index, a record's id (`instance/epoch/sequence`), or a request's.

        Raises:
            OfflineError: a bundle cannot be read.
        """
        if name.isascii() and name.isdecimal():
            return [int(name)]
        if name.count("/") == _SLASHES_OF_AN_ID:
            for index, entry in self.find(Filter()):
                if str(summarise(entry).id) == name:
                    return [index]
            return []
        return sorted(index for index, _ in self.find(Filter(request_id=name)))

    def bundle(self, number: int) -> list[bytes]:
        """Return the entries of the bundle at an index, as the checkpoint covers it.

        Raises:
            OfflineError: it cannot be read.
        """
        try:
            return self._tiles.entries(number, self.size)
        except (OSError, ValueError) as error:
            msg = f"an entry bundle cannot be read: {error}"
            raise OfflineError(msg) from None


def _fits(wanted: Filter, entry: bytes) -> bool:
    try:
        return matches(wanted, summarise(entry))
    except ValueError:
        return wanted == Filter()


def published_before(directory: Path) -> list[SignedCheckpoint]:
    """Return the checkpoints that are remembered beside a log, if they can be read.

    Read them before the log's own checkpoint: a running service publishes newer ones.

    Raises:
        NoteError: they are damaged.
    """
    layout = Layout(directory)
    checkpoints = read_history(layout.history)
    for path in (layout.log / WITNESSED, layout.accepted):
        try:
            checkpoints.append(parse_signed_checkpoint(read_regular(path, MAX_NOTE_SIZE)))
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue
        except (NotAFileError, NoteError) as error:
            msg = f"{path}: {error.strerror if isinstance(error, OSError) else error}"
            raise NoteError(msg) from None
    return checkpoints
