"""Tells logs, metrics, health and the audit log of what changes."""

from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.clock import SystemClock
from services.common.errors import WeaverError
from services.common.health import Health
from services.gateway.dependencies import Dependencies
from services.gateway.events import Event, EventType
from services.gateway.recorder import Recorder

_log = structlog.get_logger()


class Reporter:
    """Hears from the recorder, the dependencies, the captures, and of requests without a record.

    Args:
        registry: the service's metrics.
        health: the service's health.
        records_needed: whether a call is refused when the log does not take its record.
        patience_s: how long an answer waits for its outcome where it is not.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        *,
        records_needed: bool = True,
        patience_s: float = 2.0,
    ) -> None:
        """See the class."""
        self.recorder: Recorder | None = None
        self.dependencies: Dependencies | None = None
        self.patience_s = patience_s
        self._records_needed = records_needed
        self._went_on = 0
        self._health = health
        self._clock = SystemClock()
        self._up = Gauge(
            "weaver_dependency_up",
            "Whether a dependency of the gateway serves.",
            ["dependency"],
            registry=registry,
        )
        self._recorded = Counter(
            "weaver_records", "Records that the log has confirmed.", registry=registry
        )
        self._rejected = Counter(
            "weaver_records_rejected",
            "Records of which the log refused even the bare facts; each is a hole in the numbers.",
            registry=registry,
        )
        self._replaced = Counter(
            "weaver_records_replaced",
            "Records that the log refused for good and holds with their bare facts instead.",
            registry=registry,
        )
        self._unrecorded = Counter(
            "audit_unrecorded_requests",
            "Requests that went on although the log did not answer: WEAVER_AUDIT_ON_FAILURE=allow.",
            registry=registry,
        )
        texts = Counter(
            "audit_captured_texts",
            "Captured texts by what became of them.",
            ["result"],
            registry=registry,
        )
        self._kept, self._lost = texts.labels(result="kept"), texts.labels(result="dropped")
        self._waiting = Gauge(
            "weaver_records_waiting",
            "Records that the log has not confirmed yet.",
            registry=registry,
        )
        self._waiting.set_function(lambda: self.recorder.waiting if self.recorder else 0)

    @property
    def unrecorded(self) -> int:
        """Requests that went on without a record, since this was last in a record."""
        return self._went_on

    def recorded(self, events: int) -> None:
        """Count durable records."""
        self._recorded.inc(events)

    def stalled(self, error: WeaverError | None) -> None:
        """Note whether the log answers."""
        if error is None:
            _log.info("the audit log answers again")
        else:
            _log.error("the audit log does not answer", reason=error.reason, error=error.message)
        self._ready()
        if not self._records_needed:
            self._note_gap(error)

    def replaced(self, error: WeaverError) -> None:
        """Count a record of which the log holds the bare facts."""
        self._replaced.inc()
        _log.error("the audit log refused a record; bare facts replace it", error=str(error))

    def rejected(self, error: WeaverError) -> None:
        """Count a record that the log refused for good."""
        self._rejected.inc()
        _log.error("the audit log refused a record", error=f"{type(error).__name__}: {error}")

    def begin(self) -> None:
        """Say how all is at the start: what is well from the first look on never changes."""
        if self.dependencies is not None:
            for name, state in self.dependencies.snapshot().items():
                self._up.labels(name).set(state.up)
        self._ready()

    def changed(self, name: str, *, up: bool) -> None:
        """Note that a dependency came up or went down."""
        self._up.labels(name).set(up)
        _log.log(20 if up else 40, "dependency changed", dependency=name, up=up)
        self._ready()
        self._record(up=up, attributes={"dependency": name})

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        """Record that something else decides now, or that a change was refused."""
        if self.recorder is not None:
            kind = EventType.CONFIGURATION_CHANGED
            event = Event(kind, self._clock.time(), attributes=dict(attributes))
            self.recorder.submit(event, must=True)

    def went_on(self) -> None:
        """Count a request that goes on although the log does not answer."""
        self._went_on += 1
        self._unrecorded.inc()

    def captured(self, texts: int) -> None:
        """Count captured texts that are kept."""
        self._kept.inc(texts)

    def dropped(self, texts: int) -> None:
        """Count captured texts that are lost."""
        self._lost.inc(texts)

    def _note_gap(self, error: WeaverError | None) -> None:
        """Have the log say, once it can, how many requests it has no record of."""
        attributes = {"dependency": "audit", "policy": "allow"}
        if error is not None:
            attributes["reason"] = error.reason
        else:
            attributes["unrecorded_requests"] = str(self._went_on)
            self._went_on = 0
        self._record(up=error is None, attributes=attributes)

    def _record(self, *, up: bool, attributes: dict[str, str]) -> None:
        """Record a change; while the log is away it waits, numbered, so that none is missing."""
        kind = EventType.DEGRADED_LEFT if up else EventType.DEGRADED_ENTERED
        if self.recorder is not None:
            event = Event(kind, self._clock.time(), attributes=attributes)
            self.recorder.submit(event, must=True)

    def _ready(self) -> None:
        ready = self.dependencies is not None and self.dependencies.ready
        stalled = self.recorder is not None and self.recorder.stall is not None
        self._health.set("", ready and not (stalled and self._records_needed))
