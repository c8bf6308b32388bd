"""How many intents have had no outcome for so long that none will come.

An intent is followed by its outcome within the time that a request may take. One that was open when
the log was first read counts at once: nobody knows for how long it has been.
"""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.clock import Clock

GRACE_S = 900.0


class InterruptedIntents(Collector):
    """Counts them, from one look to the next.

    Args:
        clock: for how long each has been open.
    """

    def __init__(self, clock: Clock) -> None:
        """See the class."""
        self._clock = clock
        self._since: dict[int, float] | None = None
        self._count: int | None = None

    def look(self, indexes: Iterable[int]) -> None:
        """Take note of the intents that are open now, by their places in the log."""
        now = self._clock.monotonic()
        known = self._since
        first = now - GRACE_S if known is None else now
        self._since = {index: (known or {}).get(index, first) for index in indexes}
        self._count = sum(now - since >= GRACE_S for since in self._since.values())

    def collect(self) -> Iterator[Metric]:
        """Yield the figure; none before the log was read, so that a start looks like no change."""
        found = GaugeMetricFamily(
            "audit_interrupted_intents", "Intents that have no outcome and will not get one."
        )
        if self._count is not None:
            found.add_metric((), self._count)
        yield found
