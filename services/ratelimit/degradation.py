"""Makes the loss of the store visible: log line, metric, health, audit record.

It never decides and never waits: what it does, it does between two decisions.
"""

from collections.abc import Mapping
from typing import Protocol

import structlog

from services.ratelimit.limiter import OnStoreFailure

log = structlog.get_logger()


class HealthBoard(Protocol):
    """Where a dependency's state is posted."""

    def set(self, name: str, serving: bool, detail: str = "") -> None:  # noqa: FBT001 - its form
        """Post the state of a dependency."""
        ...


class Gauge(Protocol):
    """Where the store's state is counted."""

    def store_up(self, *, up: bool) -> None:
        """Say whether the store answers."""
        ...

    def store_fit(self, *, fit: bool) -> None:
        """Say whether the store may hold limits."""
        ...


class Trail(Protocol):
    """Where degradation is recorded; must not block."""

    def degraded(self, *, entered: bool, attributes: Mapping[str, str]) -> None:
        """Record that the service goes on without the store, or has it back."""
        ...


class Degradation:
    """Tells everybody when the store goes and comes back.

    Args:
        policy: what is declared for when the store is down.
        health: shown as the dependency `store`.
        gauge: the metric.
        trail: the audit log.
        strict: do without a store that evicts keys, as in production.
    """

    def __init__(
        self,
        policy: OnStoreFailure,
        *,
        health: HealthBoard,
        gauge: Gauge,
        trail: Trail,
        strict: bool = False,
    ) -> None:
        """See the class."""
        self.unfit = ""
        """Why the store should not hold limits; empty when it may or is not known."""
        self._strict = strict
        self._policy = policy
        self._health = health
        self._gauge = gauge
        self._trail = trail
        self._up: bool | None = None

    def store_changed(self, up: bool, detail: str) -> None:  # noqa: FBT001 - a callback's state
        """Take note of the store's state; only a change is logged and recorded."""
        self._gauge.store_up(up=up)
        if up:
            self._health.set("store", True)  # noqa: FBT003 - its form
        else:
            self._health.set("store", False, f"{detail}; limits: {self._policy}")  # noqa: FBT003
        first, changed = self._up is None, self._up is not up
        self._up = up
        if not changed:
            return
        if up:
            log.info("store_up", store=detail)
        else:
            log.warning("store_down", detail=detail, policy=self._policy)
        if not (first and up):
            attributes = {"dependency": "store", "policy": self._policy, "detail": detail}
            self._trail.degraded(entered=not up, attributes=attributes)

    def store_examined(self, problem: str) -> bool:
        """Take note of why a store should not hold limits; say whether to do without it."""
        self._gauge.store_fit(fit=not problem)
        if problem and problem != self.unfit:
            say = log.error if self._strict else log.warning
            say("store_unfit", problem=problem, used=not self._strict)
        self.unfit = problem
        return self._strict and bool(problem)
