"""Reads a log's directory without the service: for auditors, and while the service is down.

It trusts what it reads no further than a reader needs; `verifier` is what proves it.
"""

from collections.abc import Iterator
from pathlib import Path

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.history import read_history
from services.audit.index import Filter
from services.audit.inventory import CHECKPOINT, WITNESSED
from services.audit.layout import Layout
from services.audit.matching import matches
from services.audit.merkle import TILE_WIDTH
from services.audit.note import NoteError
from services.audit.receipt import Receipt, make_receipt
from services.audit.record import summarise
from services.audit.tiles import TileDirectory, TileReader


class OfflineError(Exception):
    """The directory cannot be read as a log; the message is for people."""


class OfflineLog:
    """The records under the checkpoint of a log that lies in a directory.

    Args:
        directory: the log's directory.

    Raises:
        OfflineError: there is no readable checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        """See the class."""
        self._tiles = TileDirectory(directory, directory)
        try:
            data = (directory / CHECKPOINT).read_bytes()
            self.checkpoint: SignedCheckpoint = parse_signed_checkpoint(data)
        except FileNotFoundError:
            msg = f"{directory} holds no log: there is no checkpoint"
            raise OfflineError(msg) from None
        except (OSError, NoteError) as error:
            msg = f"{directory / CHECKPOINT}: {error}"
            raise OfflineError(msg) from None

    @property
    def size(self) -> int:
        """How many records the checkpoint covers."""
        return self.checkpoint.checkpoint.size

    def entry(self, index: int) -> bytes:
        """Return the entry at an index.

        Raises:
            OfflineError: the log is shorter, or the bundle cannot be read.
        """
        if not 0 <= index < self.size:
            msg = f"the log has no record {index}; its checkpoint covers {self.size}"
            raise OfflineError(msg)
        return self._bundle(index // TILE_WIDTH)[index % TILE_WIDTH]

    def receipt(self, index: int) -> Receipt:
        """Return the receipt of a record.

        Raises:
            OfflineError: the log is shorter, or a tile cannot be read.
        """
        if not 0 <= index < self.size:
            msg = f"the log has no record {index}; its checkpoint covers {self.size}"
            raise OfflineError(msg)
        try:
            return make_receipt(index, TileReader(self._tiles, self.size), self.checkpoint)
        except (OSError, ValueError) as error:
            msg = f"a tile cannot be read: {error}"
            raise OfflineError(msg) from None

    def find(self, wanted: Filter, *, ascending: bool = False) -> Iterator[tuple[int, bytes]]:
        """Yield the records that match, newest first unless asked otherwise.

        Raises:
            OfflineError: a bundle cannot be read.
        """
        numbers = range(-(-self.size // TILE_WIDTH))
        for number in numbers if ascending else reversed(numbers):
            bundle = list(enumerate(self._bundle(number), number * TILE_WIDTH))
            for index, entry in bundle if ascending else reversed(bundle):
                if matches(wanted, summarise(entry)):
                    yield index, entry

    def _bundle(self, number: int) -> list[bytes]:
        try:
            return self._tiles.entries(number, self.size)
        except (OSError, ValueError) as error:
            msg = f"an entry bundle cannot be read: {error}"
            raise OfflineError(msg) from None


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
            checkpoints.append(parse_signed_checkpoint(path.read_bytes()))
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            continue
        except NoteError as error:
            msg = f"{path}: {error}"
            raise NoteError(msg) from None
    return checkpoints
