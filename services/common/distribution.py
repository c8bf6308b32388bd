"""A histogram of plain numbers, for what is counted on each call.

The client library's own takes a lock and a dozen Python calls for each value. This one is changed
on one event loop alone, and read when Prometheus asks.
"""

from bisect import bisect_left
from collections.abc import Sequence

from prometheus_client.core import HistogramMetricFamily


class Distribution:
    """A histogram of plain numbers.

    Args:
        bounds: upper bounds of the buckets, ascending.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Start at nothing."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def __add__(self, other: "Distribution") -> "Distribution":
        """Return both together."""
        both = Distribution(self._bounds)
        pairs = zip(self.counts, other.counts, strict=True)
        both.counts = [mine + theirs for mine, theirs in pairs]
        both.total = self.total + other.total
        return both

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Put the figures into a family, under its labels."""
        running, cumulative = 0, []
        names = (*(str(float(bound)) for bound in self._bounds), "+Inf")
        for bound, count in zip(names, self.counts, strict=True):
            running += count
            cumulative.append((bound, float(running)))
        family.add_metric(labels, buckets=cumulative, sum_value=self.total)
