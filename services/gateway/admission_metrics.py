"""What Prometheus and the log learn of the load, read when they ask and not with each call."""

from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.gateway.admission import Capacity, Door

_log = structlog.get_logger()


class SheddingLog:
    """Writes a line when load begins to be shed."""

    def shedding(self, cause: str) -> None:
        """Take note of it."""
        _log.warning("load is shed: requests are refused with 503", cause=cause)


class AdmissionMetrics(Collector):
    """The numbers of a door.

    Args:
        door: whose.
        capacity: what it may let in.
        registry: the service's metrics.
    """

    def __init__(self, door: Door, capacity: Capacity, registry: CollectorRegistry) -> None:
        """Register them."""
        self._door = door
        self._capacity = capacity
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus asks for."""
        door, capacity = self._door, self._capacity
        gauges = (
            ("in_flight", "Requests in flight, streams too.", door.calls),
            ("in_flight_limit", "Requests in flight at most.", capacity.calls),
            ("in_flight_bytes", "The bodies of the requests in flight.", door.body_bytes),
            ("in_flight_callers", "Callers with a request in flight.", door.callers),
            ("in_front", "Requests in flight that no provider has yet.", door.front),
            ("in_front_limit", "The same at most, now: it follows their wait.", door.front_limit),
        )
        for name, help_text, value in gauges:
            yield GaugeMetricFamily(f"weaver_requests_{name}", help_text, value=value)
        shed = CounterMetricFamily(
            "weaver_requests_shed", "Requests refused for want of room.", labels=("cause",)
        )
        for cause, count in list(door.refused.items()):
            shed.add_metric((cause,), count)
        yield shed
