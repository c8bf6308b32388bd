"""Counts and times calls, for Prometheus.

The client library's own counters take a lock and a dozen Python calls each; every call pays for
these, so they are plain numbers, changed on the event loop alone and read when Prometheus asks.
"""

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)


class MethodMetrics:
    """The numbers of one method."""

    __slots__ = ("buckets", "codes", "total_s")

    def __init__(self) -> None:
        """Start at nothing."""
        self.codes: dict[str, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0

    def observe(self, code: str, seconds: float) -> None:
        """Count a call that is over."""
        codes = self.codes
        codes[code] = codes.get(code, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.total_s += seconds


class CallMetrics(Collector):
    """The calls of a service, shared by its listeners."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register them."""
        self._methods: dict[str, MethodMetrics] = {}
        registry.register(self)

    def of(self, path: str) -> MethodMetrics:
        """Return the numbers of a method."""
        return self._methods.setdefault(path, MethodMetrics())

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus asks for."""
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that are over.", labels=("grpc_method", "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "How long calls took.", labels=("grpc_method",)
        )
        for path, method in list(self._methods.items()):
            for code, count in list(method.codes.items()):
                handled.add_metric((path, code), count)
            running, cumulative = 0, []
            for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), method.buckets, strict=True):
                running += count
                cumulative.append((bound, float(running)))
            seconds.add_metric((path,), buckets=cumulative, sum_value=method.total_s)
        yield handled
        yield seconds
