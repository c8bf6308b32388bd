"""Who signs checkpoints now, and what a change of keys needs of its surroundings."""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.audit.checkpoint import SignedCheckpoint
from services.audit.keys.archive import KeyArchive
from services.audit.keys.signers import Signer
from services.audit.note import NoteSigner
from services.audit.record import EventType


class LogView(Protocol):
    """What a rotation sees of the log."""

    checkpoint: SignedCheckpoint | None

    @property
    def size(self) -> int:
        """How many records are durable."""
        ...

    @property
    def integrated(self) -> int:
        """How many records the published tree has."""
        ...

    async def wait_integrated(self, size: int, timeout_s: float) -> bool:
        """Wait until the tree has so many records; say whether it does."""
        ...


class EventWriter(Protocol):
    """Appends the service's own records."""

    def record(self, event_type: EventType, attributes: Mapping[str, str]) -> Awaitable[int | None]:
        """Append a record and return its index; None when the log refused it."""
        ...


class KeyObserver(Protocol):
    """Is told what happens to keys, for metrics, health and the service's own log."""

    def in_use(self, archive: KeyArchive) -> None:
        """These keys sign from now on."""
        ...

    def rotated(self, attributes: Mapping[str, str]) -> None:
        """A rotation was recorded."""
        ...


class KeyRing:
    """Who signs the next checkpoint; read by the tree's thread, turned by the event loop."""

    def __init__(self) -> None:
        """Begin without anybody."""
        self._signers: tuple[tuple[Signer, ...], tuple[Signer, ...]] = ((), ())

    @property
    def current(self) -> tuple[Signer, ...]:
        """The keys in use."""
        return self._signers[0]

    @property
    def outgoing(self) -> tuple[Signer, ...]:
        """Those that endorse them and then go."""
        return self._signers[1]

    def turn(self, current: Sequence[Signer], outgoing: Sequence[Signer]) -> None:
        """Let others sign, in one step."""
        self._signers = (tuple(current), tuple(outgoing))

    def signers(self) -> Sequence[NoteSigner]:
        """Return who signs: those in use, then those that endorse them."""
        current, outgoing = self._signers
        return (*current, *outgoing)


@dataclass(frozen=True)
class Terms:
    """What holds for every rotation of a log.

    Attributes:
        environment: where this is.
        grace_s: for how long a retired key is accepted.
        host: the machine, for the record.
    """

    environment: str
    grace_s: float
    host: str
