"""Sends a service's metrics to the collector too, every few seconds, by OTLP.

They are the same figures that Prometheus asks for, and cumulative: whoever missed some gets the sum
with the next. So a collector that is away costs nothing, and nothing waits for it here.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from services.common.otlp import endpoint, metric_exporter, resource
from services.common.settings import CommonSettings
from services.common.span_queue import LAST_WORDS_S, PATIENCE_S
from services.common.telemetry import bounded

_NANOS: Final = 1_000_000_000
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class MetricsPush:
    """Sends on a thread of its own.

    Args:
        registry: what to send.
        exporter: sends; it gives up by itself after a while.
        about: what says of whom the metrics are.
        every_s: how often.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        exporter: Any,  # noqa: ANN401 - an SDK type, of either kind
        about: dict[str, str],
        every_s: float,
    ) -> None:
        """Begin."""
        self._registry = registry
        self._exporter = exporter
        self._resource = Resource.create(about)
        self._every_s = every_s
        self._started = time.time_ns()
        self._answers = True
        self._sending_since: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-push", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send once more, and end; blocks as long as that takes, if the collector answered."""
        since = self._sending_since
        hangs = since is not None and time.monotonic() - since > PATIENCE_S
        self._stop.set()
        self._thread.join(LAST_WORDS_S if self._answers and not hangs else 0.0)
        self._exporter.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            self._send()
        self._send()

    def _send(self) -> None:
        metrics = list(converted(self._registry.collect(), self._started, time.time_ns()))
        scope = InstrumentationScope("weaver")
        data = MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(scope, metrics, "")], "")]
        )
        # Whatever goes wrong is the exporter's to log; the next time brings the sums again.
        self._sending_since = time.monotonic()
        self._answers = self._exporter.export(data) is MetricExportResult.SUCCESS
        self._sending_since = None


def start_push(
    registry: CollectorRegistry, name: str, settings: CommonSettings, stack: AsyncExitStack
) -> None:
    """Begin to send a service's metrics; the stack ends it.

    Raises:
        SettingsError: the endpoint is not one.
    """
    exporter = metric_exporter(endpoint(settings.telemetry_endpoint))
    about = resource(settings, name)
    push = MetricsPush(registry, exporter, about, settings.telemetry_metrics_seconds)
    stack.push_async_callback(bounded, push.close)


def converted(families: Iterable[Family], started: int, now: int) -> Iterator[Metric]:
    """Yield metrics as OpenTelemetry has them, from those of Prometheus.

    Args:
        families: as a registry collects them.
        started: since when sums have been counted, in Unix nanoseconds.
        now: the time of the figures, likewise.
    """
    for family in families:
        data = _KINDS.get(family.type, _gauge)(family, started, now)
        if data.data_points:
            yield Metric(family.name, family.documentation, "", data)


def _points(samples: Iterable[Sample], started: int, now: int) -> list[NumberDataPoint]:
    return [NumberDataPoint(dict(one.labels), started, now, one.value) for one in samples]


def _sum(family: Family, started: int, now: int) -> Sum:
    totals = (one for one in family.samples if not one.name.endswith("_created"))
    return Sum(_points(totals, started, now), _CUMULATIVE, is_monotonic=True)


def _gauge(family: Family, started: int, now: int) -> Gauge:
    return Gauge(_points(family.samples, started, now))


def _histogram(family: Family, started: int, now: int) -> Histogram:
    found: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for one in family.samples:
        labels = {name: value for name, value in one.labels.items() if name != "le"}
        of = found.setdefault(tuple(labels.items()), {"bounds": [], "sum": 0.0})
        if one.name.endswith("_bucket"):
            of["bounds"].append((float(one.labels["le"]), one.value))
        elif one.name.endswith("_sum"):
            of["sum"] = one.value
    return Histogram(
        [_distribution(dict(labels), of, started, now) for labels, of in found.items()],
        _CUMULATIVE,
    )


def _distribution(
    labels: dict[str, str], of: dict[str, Any], started: int, now: int
) -> HistogramDataPoint:
    counts, below = [], 0
    for _, running in of["bounds"]:
        counts.append(int(running) - below)
        below = int(running)
    bounds = [bound for bound, _ in of["bounds"][:-1]]
    nothing: Any = None  # Prometheus knows no least and no greatest value.
    return HistogramDataPoint(
        labels, started, now, below, of["sum"], counts, bounds, nothing, nothing
    )


_KINDS: Final[dict[str, Callable[[Family, int, int], Any]]] = {
    "counter": _sum,
    "histogram": _histogram,
}
