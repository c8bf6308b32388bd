"""When backups last succeeded, as their jobs write it down and services tell Prometheus.

`weaver backup` writes beside the audit log and into the store; the audit service and the limiter
read it there. Nobody pushes metrics, and a job that never ran shows as well.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

import msgspec
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

BESIDE_THE_LOG: Final = "backups.json"
IN_THE_STORE: Final = "weaver:backups"
DRILL: Final = "drill"


class Standing(msgspec.Struct, frozen=True):
    """One success.

    Attributes:
        time: in Unix seconds.
        size: bytes that were stored.
    """

    time: float
    size: int = 0


def read(data: bytes) -> dict[str, Standing]:
    """Return what a file says; nothing where it is damaged."""
    try:
        return msgspec.json.decode(data, type=dict[str, Standing])
    except msgspec.DecodeError:
        return {}


def read_fields(fields: Mapping[object, object]) -> dict[str, Standing]:
    """Return what the fields of a hash in the store say; damaged ones say nothing."""
    found: dict[str, Standing] = {}
    for name, value in fields.items():
        if isinstance(name, bytes) and isinstance(value, bytes):
            with suppress(msgspec.DecodeError):
                found[name.decode(errors="replace")] = msgspec.json.decode(value, type=Standing)
    return found


class BackupMetrics(Collector):
    """Tells Prometheus of backups.

    Args:
        kinds: whose backups this service knows of; 0 stands for never.
        known: returns what is known; None when that cannot be said now.
    """

    def __init__(
        self, kinds: tuple[str, ...], known: Callable[[], Mapping[str, Standing] | None]
    ) -> None:
        """See the class."""
        self._kinds = kinds
        self._known = known

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without their values."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        found = self._known()
        times, sizes, drill = families = self._families()
        if found is not None:
            never = Standing(0.0)
            for kind in self._kinds:
                standing = found.get(kind, never)
                times.add_metric([kind], standing.time)
                sizes.add_metric([kind], standing.size)
            drill.add_metric([], found.get(DRILL, never).time)
        return families

    @staticmethod
    def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            GaugeMetricFamily(
                "backup_last_success_time_seconds",
                "When a backup of this kind last succeeded, in Unix seconds; 0 for never.",
                labels=["kind"],
            ),
            GaugeMetricFamily(
                "backup_size_bytes",
                "What the last good backup of this kind takes where it lies.",
                labels=["kind"],
            ),
            GaugeMetricFamily(
                "recovery_drill_last_success_time_seconds",
                "When everything was last brought back for a trial, in Unix seconds; 0 for never.",
                labels=[],
            ),
        )
