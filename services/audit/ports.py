"""What the log needs of its surroundings."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from services.audit.record import RecordId


class Entry(NamedTuple):
    """A record on its way into the log."""

    data: bytes
    """The canonical JSON that is hashed."""
    leaf: bytes
    """Its leaf hash."""
    id: RecordId
    commitment_key: bytes | None
    """What goes into the side store, sealed, and never into the log."""


class Store(Protocol):
    """Something that is kept beside the log and follows it, such as the index."""

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        ...

    def apply(self, first: int, entries: Sequence[Entry]) -> None:
        """Take records from an index on, durably; those it has taken before it leaves alone.

        Raises:
            OSError: the disk refuses.
        """
        ...


class LogObserver(Protocol):
    """Who is told what the log does, for metrics and health."""

    def appended(self, records: int, seconds: float) -> None:
        """Records were acknowledged, so long after they arrived."""
        ...

    def refused(self, reason: str, records: int) -> None:
        """Records were refused."""
        ...

    def queued(self, records: int) -> None:
        """So many records wait to become durable."""
        ...

    def grew(self, size: int) -> None:
        """So many records are durable."""
        ...

    def published(self, size: int, signing_seconds: float) -> None:
        """A checkpoint of this size was published."""
        ...

    def disk_failed(self, operation: str, error: Exception) -> None:
        """The disk refused an operation; new records are refused until it does not."""
        ...

    def disk_recovered(self, operation: str) -> None:
        """The disk takes this operation again."""
        ...
