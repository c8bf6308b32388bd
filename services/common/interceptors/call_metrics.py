"""Counts and times calls, for Prometheus.

The client library's own counters take a lock and a dozen Python calls each; every call pays for
these, so they are plain numbers, changed on the event loop alone and read when Prometheus asks.
"""

from collections.abc import Iterator, Mapping
from contextvars import ContextVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.distribution import Distribution

BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
UNKNOWN_METHOD = "unknown"
"""What calls of methods are counted as that nobody serves: their names are the callers'."""

waited: ContextVar[tuple[bool, float] | None] = ContextVar("waited", default=None)
"""Of a call that waits for somebody outside: whether it streams, and the seconds it waited."""


class MethodMetrics:
    """The numbers of one method.

    Attributes:
        codes: calls by the name of the gRPC code that they ended with.
        http: failed calls by the HTTP status that they became, where it was noted.
        whole: the seconds of calls, but of those that stream.
        streams: of those that stream.
        overhead: the seconds of both, apart from what was `waited`, where it was told.
    """

    __slots__ = ("codes", "http", "overhead", "streams", "whole")

    def __init__(self) -> None:
        """Start at nothing."""
        self.codes: dict[str, int] = {}
        self.http: dict[int, int] = {}
        self.whole = Distribution(BUCKETS_S)
        self.streams = Distribution(BUCKETS_S)
        self.overhead = (Distribution(BUCKETS_S), Distribution(BUCKETS_S))

    def observe(self, code: str, seconds: float, told: tuple[bool, float] | None = None) -> None:
        """Count a call that is over, and what it told of itself."""
        codes = self.codes
        codes[code] = codes.get(code, 0) + 1
        if told is None:
            self.whole.observe(seconds)
            return
        streams, seconds_waited = told
        (self.streams if streams else self.whole).observe(seconds)
        self.overhead[streams].observe(seconds - seconds_waited)

    def failed(self, status: int) -> None:
        """Note the HTTP status that a call's error becomes."""
        self.http[status] = self.http.get(status, 0) + 1


class CallMetrics(Collector):
    """The calls of a service, shared by its listeners.

    Args:
        registry: the service's; None where nobody asks.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register them."""
        self._methods: dict[str, MethodMetrics] = {}
        if registry is not None:
            registry.register(self)

    @property
    def methods(self) -> Mapping[str, MethodMetrics]:
        """The numbers of each method that was called, or is served."""
        return self._methods

    def of(self, path: str) -> MethodMetrics:
        """Return the numbers of a method."""
        return self._methods.setdefault(path, MethodMetrics())

    def unknown(self) -> None:
        """Count a call of a method that is not served."""
        self.of(UNKNOWN_METHOD).observe("UNIMPLEMENTED", 0.0)

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
            if method.codes:
                both = Distribution(BUCKETS_S)
                both.counts = list(
                    map(sum, zip(method.whole.counts, method.streams.counts, strict=True))
                )
                both.total = method.whole.total + method.streams.total
                both.add_to(seconds, (path,))
        yield handled
        yield seconds
