"""Reads the policy file again when it changes. A bad file changes nothing and is visible.

It looks once a second. The content decides, not the time stamps.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from services.common import operator_file
from services.common.operator_file import LOOK_EVERY_S, Lookout, OperatorFileError
from services.ratelimit.policy import Policy
from services.ratelimit.policy_file import PolicyError

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
        self._path = path
        self._parse = parse
        self.adopt: Callable[[Policy], None] = _ignore
        """Makes a policy decide; set before `start`."""
        self._health = health
        self._gauge = gauge
        self._trail = trail
        self._last: bytes | str = ""
        self._version = ""
        self.problem = ""
        """Why the last change was refused; empty while the file decides."""
        self._lookout = Lookout(self.look)

    def first(self) -> Policy:
        """Read the file for the first time and return its policy.

        Raises:
            PolicyError: it cannot be read, or is no policy.
        """
        content = self._read()
        if isinstance(content, str):
            raise PolicyError(content)
        policy = self._parse(content)
        self._last, self._version = content, policy.version
        self._health.set("policy", True)  # noqa: FBT003 - its form
        self._gauge.policy_read(policy.version, good=True, changed=False)
        return policy

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Begin to look."""
        self._lookout.start(every_s)

    async def close(self) -> None:
        """Stop looking."""
        await self._lookout.close()

    async def look(self) -> None:
        """Read the file once and adopt what is new in it."""
        content = await asyncio.to_thread(self._read)
        if content == self._last:
            return
        self._last = content
        if isinstance(content, str):
            self._refuse(content)
            return
        try:
            policy = await asyncio.to_thread(self._parse, content)
        except PolicyError as error:
            self._refuse(str(error))
            return
        before, self._version = self._version, policy.version
        self.problem = ""
        self.adopt(policy)
        self._health.set("policy", True)  # noqa: FBT003 - its form
        self._gauge.policy_read(policy.version, good=True, changed=True)
        if before != policy.version:
            log.info("policy_changed", path=str(self._path), before=before, now=policy.version)
            self._trail.configuration_changed(
                {"setting": "ratelimit_policy", "before": before, "now": policy.version}
            )

    def _refuse(self, problem: str) -> None:
        """Keep the policy that decides, and say so everywhere."""
        self.problem = problem
        detail = f"the policy file is bad, {self._version} goes on: {problem}"
        log.error("policy_refused", path=str(self._path), problem=problem, keeps=self._version)
        self._health.set("policy", False, detail)  # noqa: FBT003 - its form
        self._gauge.policy_read(self._version, good=False, changed=True)
        self._trail.configuration_changed(
            {"setting": "ratelimit_policy", "refused": problem[:500], "keeps": self._version}
        )

    def _read(self) -> bytes | str:
        """Return the file's content, or why it cannot be read."""
        try:
            return operator_file.read(self._path)
        except OperatorFileError as error:
            return str(error)
