"""The metrics and the health of the log."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.clock import Clock
from services.common.health import Health

_APPEND_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_LAG_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIGNING_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5)

_log = structlog.get_logger()


class LogMetrics:
    """Turns what the log tells into metrics and health.

    Args:
        registry: the service's registry.
        health: the service's health; `disk` and the service itself follow the disk.
        clock: for ages.
    """

    def __init__(self, registry: CollectorRegistry, health: Health, clock: Clock) -> None:
        """See the class."""
        self._health = health
        self._clock = clock
        self._started: float | None = None
        self._failing: set[str] = set()
        self._behind_since: float | None = None
        appended = Counter(
            "audit_append", "Records by what became of them.", ["result"], registry=registry
        )
        self._appended = appended.labels(result="ok")
        self._refused = {
            reason: appended.labels(result=reason.lower())
            for reason in ("AUDIT_UNAVAILABLE", "QUEUE_FULL", "RECORD_CONFLICT")
        }
        self._append_seconds = Histogram(
            "audit_append_seconds",
            "From a batch's arrival to its acknowledgement.",
            buckets=_APPEND_BUCKETS,
            registry=registry,
        )
        self._signing_seconds = Histogram(
            "audit_signing_seconds",
            "Signing one checkpoint with every key.",
            buckets=_SIGNING_BUCKETS,
            registry=registry,
        )
        self._receipt_lag = Histogram(
            "audit_receipt_lag_seconds",
            "From the first record that waits for a checkpoint to the checkpoint over it.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )
        self._log_size = Gauge("audit_log_size", "Durable records.", registry=registry)
        self._checkpoint_size = Gauge(
            "audit_checkpoint_size", "Records under the newest checkpoint.", registry=registry
        )
        self._queue = Gauge(
            "audit_queue_depth", "Records that wait to become durable.", registry=registry
        )
        self._disk_errors = Counter(
            "audit_disk_errors", "What the disk refused.", ["operation"], registry=registry
        )
        age = Gauge(
            "audit_checkpoint_age_seconds",
            "How long durable records have been waiting for a checkpoint; 0 when none wait.",
            registry=registry,
        )
        age.set_function(self._checkpoint_age)
        self._size = 0
        self._published = 0

    def appended(self, records: int, seconds: float) -> None:
        """Records were acknowledged, so long after they arrived."""
        self._appended.inc(records)
        self._append_seconds.observe(seconds)

    def refused(self, reason: str, records: int) -> None:
        """Records were refused."""
        self._refused[reason].inc(records)

    def queued(self, records: int) -> None:
        """So many records wait to become durable."""
        self._queue.set(records)

    def grew(self, size: int) -> None:
        """So many records are durable."""
        if self._behind_since is None and size > self._published:
            self._behind_since = self._clock.monotonic()
        self._size = size
        self._log_size.set(size)

    def published(self, size: int, signing_seconds: float) -> None:
        """A checkpoint of this size was published; called from the tree's thread."""
        self._published = size
        if self._behind_since is not None:
            self._receipt_lag.observe(self._clock.monotonic() - self._behind_since)
        self._behind_since = None if size >= self._size else self._clock.monotonic()
        self._checkpoint_size.set(size)
        self._signing_seconds.observe(signing_seconds)

    def disk_failed(self, operation: str, error: Exception) -> None:
        """The disk refused an operation; new records are refused until it does not."""
        self._disk_errors.labels(operation=operation).inc()
        if operation not in self._failing:
            _log.error("audit_disk_refuses", operation=operation, error=str(error))
        if operation == "trim":
            return  # Only space is at stake; the next checkpoint tries again.
        self._failing.add(operation)
        detail = (
            "the disk does not answer" if operation == "stall" else f"the disk refuses: {operation}"
        )
        self._health.set("disk", False, detail)  # noqa: FBT003 - health's own signature
        self._health.set("", False, detail)  # noqa: FBT003

    def disk_recovered(self, operation: str) -> None:
        """The disk takes this operation again."""
        if operation in self._failing:
            _log.info("audit_disk_recovered", operation=operation)
        self._failing.discard(operation)
        self.ready()

    def ready(self) -> None:
        """Say that the log takes records, unless the disk refuses just now."""
        if self._failing:
            return
        self._health.set("disk", True)  # noqa: FBT003
        self._health.set("", True)  # noqa: FBT003

    def _checkpoint_age(self) -> float:
        since = self._behind_since
        return 0.0 if since is None else self._clock.monotonic() - since


class DiskSpace(Collector):
    """The room on the volume of the log, looked up when somebody asks.

    Args:
        registry: the service's registry.
        directory: of the log.
    """

    def __init__(self, registry: CollectorRegistry, directory: Path) -> None:
        """See the class."""
        self._directory = directory
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures; none where the disk does not answer."""
        free = GaugeMetricFamily(
            "audit_disk_free_bytes", "What the log can still grow by on its volume."
        )
        size = GaugeMetricFamily("audit_disk_size_bytes", "The size of the log's volume.")
        with contextlib.suppress(OSError):
            found = os.statvfs(self._directory)
            free.add_metric((), found.f_bavail * found.f_frsize)
            size.add_metric((), found.f_blocks * found.f_frsize)
        yield from (free, size)
