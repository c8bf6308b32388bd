"""The metrics and the health of the witnesses."""

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.clock import Clock
from services.common.health import Health

_log = structlog.get_logger()


class WitnessMetrics:
    """Turns what the witnesses do into metrics and health.

    Args:
        registry: the service's registry.
        health: gets `witness:<name>` for each witness.
        clock: for ages.
        witnesses: their names in the policy.
    """

    def __init__(
        self, registry: CollectorRegistry, health: Health, clock: Clock, witnesses: list[str]
    ) -> None:
        """See the class."""
        self._health = health
        self._failing: set[str] = set()
        self._failures = Counter(
            "audit_witness_failures",
            "Requests to witnesses that brought no cosignature.",
            ["witness", "reason"],
            registry=registry,
        )
        self._size = Gauge(
            "audit_witness_cosigned_size",
            "The newest size that a witness cosigned.",
            ["witness"],
            registry=registry,
        )
        self._time = Gauge(
            "audit_witness_cosigned_time_seconds",
            "When a witness cosigned last, by its own clock; 0 for never since the start.",
            ["witness"],
            registry=registry,
        )
        self._quorum_size = Gauge(
            "audit_witness_quorum_size",
            "The newest size that the policy's quorum cosigned.",
            registry=registry,
        )
        quorum_age = Gauge(
            "audit_witness_quorum_age_seconds",
            "Time since the quorum was last reached, or since the start.",
            registry=registry,
        )
        self._quorum_at = clock.monotonic()
        self._clock = clock
        quorum_age.set_function(lambda: self._clock.monotonic() - self._quorum_at)
        for witness in witnesses:
            self._size.labels(witness=witness).set(0)
            self._time.labels(witness=witness).set(0)
            self._health.set(f"witness:{witness}", True, "not asked yet")  # noqa: FBT003 - health's own signature

    def cosigned(self, witness: str, size: int, time: int) -> None:
        """A witness cosigned a checkpoint of a size at a Unix time."""
        self._size.labels(witness=witness).set(size)
        self._time.labels(witness=witness).set(time)
        self._health.set(f"witness:{witness}", True)  # noqa: FBT003
        if witness in self._failing:
            self._failing.discard(witness)
            _log.info("audit_witness_recovered", witness=witness, size=size)

    def witness_failed(self, witness: str, reason: str, message: str) -> None:
        """A witness did not cosign."""
        self._failures.labels(witness=witness, reason=reason).inc()
        self._health.set(f"witness:{witness}", False, message)  # noqa: FBT003
        severe = reason in {"forked", "rolled_back", "status_422"}
        write = _log.error if severe or witness not in self._failing else _log.debug
        self._failing.add(witness)
        write("audit_witness_fails", witness=witness, reason=reason, detail=message)

    def quorum_reached(self, size: int) -> None:
        """So many records are under a checkpoint that the quorum cosigned."""
        self._quorum_size.set(size)
        self._quorum_at = self._clock.monotonic()
