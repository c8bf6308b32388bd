"""The metrics, the health and the log lines of signing keys.

Health has two dependencies of its own: `key_age` is down while a key is over ninety days old,
`key_rotation` while the keys that lie there cannot be used. Neither stops the service: an old key
signs as well as a new one, and a log that is not signed serves nobody.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.audit.keys.archive import DAY_S, ROTATE_DAYS, KeyArchive
from services.common.clock import Clock
from services.common.health import Health

_log = structlog.get_logger()


class KeyMetrics:
    """Turns what happens to keys into metrics, health and log lines.

    Args:
        registry: the service's registry.
        health: the service's health.
        clock: for ages.
    """

    def __init__(self, registry: CollectorRegistry, health: Health, clock: Clock) -> None:
        """See the class."""
        self._health = health
        self._clock = clock
        self._started: dict[str, float] = {}
        self._overdue: set[str] = set()
        self._age = Gauge(
            "audit_key_age_days",
            "Days since a signing key was first used.",
            ["algorithm"],
            registry=registry,
        )
        self._rotations = Counter(
            "audit_key_rotations", "Key rotations that were recorded.", registry=registry
        )
        self._refusals = Counter(
            "audit_key_refusals", "Keys that were found and could not be used.", registry=registry
        )
        self._refused = Gauge(
            "audit_key_refused",
            "1 while the keys that lie there cannot be used and others go on signing.",
            registry=registry,
        )

    def in_use(self, archive: KeyArchive) -> None:
        """These keys sign from now on."""
        # A key that was retired and came back is as old as at its first use.
        started: dict[str, float] = {
            term.algorithm: datetime.fromisoformat(
                archive.terms(term.fingerprint)[0].start_time
            ).timestamp()
            for term in archive.active
        }
        for algorithm in self._started.keys() - started.keys():
            self._age.remove(algorithm)
        self._started = dict(started.items())
        for algorithm in started:
            self._age.labels(algorithm=algorithm).set_function(partial(self._days, algorithm))

    def rotated(self, attributes: Mapping[str, str]) -> None:
        """A rotation was recorded."""
        self._rotations.inc()
        if attributes.get("endorsed") == "false":
            _log.warning("audit_key_change_unendorsed", **attributes)
        else:
            _log.info("audit_key_rotation", **attributes)

    def looked(self) -> None:
        """Say which keys are too old by now."""
        overdue = {name for name in self._started if self._days(name) > ROTATE_DAYS}
        detail = ", ".join(f"the {name} key is over {ROTATE_DAYS} days old" for name in overdue)
        self._health.set("key_age", not overdue, detail)
        for name in sorted(overdue - self._overdue):
            _log.warning("audit_key_overdue", algorithm=name, days=int(self._days(name)))
        self._overdue = overdue

    def refused(self, problem: str) -> None:
        """The keys that lie there cannot be used; those in use go on signing."""
        self._refusals.inc()
        self._refused.set(1)
        self._health.set("key_rotation", False, "the new key cannot be used")  # noqa: FBT003 - health's own signature
        _log.error("audit_key_refused", problem=problem, consequence="the old key goes on signing")

    def accepted(self) -> None:
        """The keys that lie there are in use."""
        self._refused.set(0)
        self._health.set("key_rotation", True)  # noqa: FBT003

    def short(self, source: str) -> None:
        """A key is shorter than is recommended, in production."""
        _log.warning("audit_key_short", source=source, advice="4096 bits are recommended")

    def _days(self, algorithm: str) -> float:
        start = self._started.get(algorithm, self._clock.time())
        return max(0.0, self._clock.time() - start) / DAY_S
