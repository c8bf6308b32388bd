"""Refused requests, counted so that each is in exactly one record and a flood cannot fill the disk.

A refusal is counted under (principal, or source network when unauthenticated; reason, and what the
limiter decided; second). At most `MAX_GROUPS` groups are kept for one second; what comes beyond
them is counted under `other`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.common.clock import Clock
from services.gateway.events import Event, EventType, LimitDecision
from services.gateway.principal import Principal

MAX_GROUPS = 1000
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What refusals are grouped by."""

    principal: Principal | None
    source_network: str
    reason: str
    surface: str
    http_status: int
    limit: LimitDecision | None = None


class Refusals:
    """Counts refusals until they are taken as events.

    Args:
        clock: for the second that a refusal belongs to.
    """

    def __init__(self, clock: Clock) -> None:
        """See the class."""
        self._clock = clock
        self._second = 0
        self._open: dict[Refusal, int] = {}
        self._closed: list[tuple[int, Refusal, int]] = []

    def count(self, refusal: Refusal) -> None:
        """Count one refusal."""
        second = int(self._clock.time())
        if second != self._second:
            self._close()
            self._second = second
        if refusal.principal is not None and refusal.source_network:
            refusal = replace(refusal, source_network="")
        if refusal not in self._open and len(self._open) >= MAX_GROUPS:
            refusal = Refusal(None, OTHER, OTHER, "", 0)
        self._open[refusal] = self._open.get(refusal, 0) + 1

    def take(self, *, everything: bool = False) -> Iterator[Event]:
        """Yield the events of the seconds that are over; each refusal is yielded once.

        Args:
            everything: also the second that is not over, when the process stops.
        """
        if everything or int(self._clock.time()) != self._second:
            self._close()
        while self._closed:
            second, refusal, count = self._closed.pop(0)
            yield Event(
                EventType.REFUSAL,
                float(second),
                principal=refusal.principal,
                source_network=refusal.source_network,
                surface=refusal.surface,
                reason=refusal.reason,
                http_status=refusal.http_status,
                limit=refusal.limit,
                count=count,
            )

    def put_back(self, event: Event) -> None:
        """Take back an event that the log had no room for; it counts again."""
        refusal = Refusal(
            event.principal,
            event.source_network,
            event.reason,
            event.surface,
            event.http_status,
            event.limit,
        )
        self._closed.insert(0, (int(event.time), refusal, event.count))

    def _close(self) -> None:
        if len(self._closed) + len(self._open) > 2 * MAX_GROUPS:
            other = Refusal(None, OTHER, OTHER, "", 0)
            total = sum(count for _, _, count in self._closed)
            self._closed = [(self._closed[0][0], other, total)] if total else []
        self._closed += [(self._second, refusal, count) for refusal, count in self._open.items()]
        self._open = {}
