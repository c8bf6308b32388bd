"""Reads the policy file again when it changes. A bad file changes nothing and is visible."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from services.common.file_watch import FileWatch
from services.common.operator_file import LOOK_EVERY_S
from services.ratelimit.policy import Policy

log = structlog.get_logger()

Parse = Callable[[bytes], Policy]


def _ignore(_: Policy) -> None:
    """Adopt nothing."""


class HealthBoard(Protocol):
    """Where the state of the policy is posted."""

    def set(self, name: str, serving: bool, detail: str = "") -> None:  # noqa: FBT001 - its form
        """Post the state of a dependency."""
        ...


class Gauge(Protocol):
    """Where changes of the policy are counted."""

    def policy_read(self, version: str, *, good: bool, changed: bool) -> None:
        """Say which policy decides, and whether the file is good."""
        ...


class Trail(Protocol):
    """Where changes of the policy are recorded; must not block."""

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        """Record a change."""
        ...


class PolicyWatch:
    """Keeps the policy that decides in step with its file.

    Args:
        path: the file.
        parse: makes a policy of its content.
        health: shown as the dependency `policy`.
        gauge: the metrics.
        trail: the audit log.
    """

    def __init__(
        self,
        path: Path,
        *,
        parse: Parse,
        health: HealthBoard,
        gauge: Gauge,
        trail: Trail,
    ) -> None:
        """See the class."""
        self.adopt: Callable[[Policy], None] = _ignore
        """Makes a policy decide; set before `start`."""
        self._path = path
        self._health = health
        self._gauge = gauge
        self._trail = trail
        self._watch = FileWatch(path, parse, self._adopt, self._tell)
        self.look = self._watch.look

    @property
    def problem(self) -> str:
        """Why the last change was refused; empty while the file decides."""
        return self._watch.problem

    def first(self) -> Policy:
        """Read the file for the first time and return its policy.

        Raises:
            OperatorFileError: it cannot be read, or is no policy.
        """
        return self._watch.first()

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Begin to look."""
        self._watch.start(every_s)

    async def close(self) -> None:
        """Stop looking."""
        await self._watch.close()

    def _adopt(self, policy: Policy) -> None:
        self.adopt(policy)

    def _tell(self, problem: str, before: str, now: str) -> None:
        """Say everywhere which policy decides, and that a bad file does not."""
        self._gauge.policy_read(now, good=not problem, changed=bool(before))
        if problem:
            detail = f"the policy file is bad, {now} goes on: {problem}"
            log.error("policy_refused", path=str(self._path), problem=problem, keeps=now)
            self._health.set("policy", False, detail)  # noqa: FBT003 - its form
            refused = {"setting": "ratelimit_policy", "refused": problem[:500], "keeps": now}
            self._trail.configuration_changed(refused)
            return
        self._health.set("policy", True)  # noqa: FBT003 - its form
        if before not in {"", now}:
            log.info("policy_changed", path=str(self._path), before=before, now=now)
            changed = {"setting": "ratelimit_policy", "before": before, "now": now}
            self._trail.configuration_changed(changed)
