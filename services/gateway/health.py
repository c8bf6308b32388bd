"""What `/health` says: live, ready and degraded apart, each dependency, the policies in force.

It tells a stranger which parts are up and nothing of where or how they run.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from services.common.errors import Unavailable
from services.gateway.dependencies import Dependencies
from services.gateway.recorder import Recorder


class Draining(Protocol):
    """Knows whether the process is on its way out."""

    @property
    def draining(self) -> bool:
        """Whether it is."""
        ...


class HealthReport:
    """Writes the report.

    Args:
        dependencies: the neighbours.
        recorder: whether the log takes records.
        policies: tells what this deployment has decided.
        process: whether this process is on its way out.
        records_needed: whether a call is refused when the log does not take its record.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        recorder: Recorder,
        policies: Callable[[], Mapping[str, str]],
        process: Draining,
        *,
        records_needed: bool = True,
    ) -> None:
        """See the class."""
        self._dependencies = dependencies
        self._recorder = recorder
        self._policies = policies
        self._records_needed = records_needed
        self._process = process

    @property
    def ready(self) -> bool:
        """Whether a model call can be served."""
        return (
            not self._process.draining
            and self._dependencies.ready
            and (self._recorder.stall is None or not self._records_needed)
        )

    @property
    def status(self) -> str:
        """`ok`, `degraded` (it serves, but something is down) or `unavailable`."""
        if not self.ready:
            return "unavailable"
        degraded = self._dependencies.degraded or self._recorder.stall is not None
        return "degraded" if degraded else "ok"

    def body(self) -> bytes:
        """Return the report as ASCII JSON."""
        dependencies = {
            name: "ok" if state.up else "down"
            for name, state in self._dependencies.snapshot().items()
        }
        if self._recorder.stall is not None:
            dependencies["audit"] = "down"
        report = {
            "status": self.status,
            "live": True,
            "ready": self.ready,
            "dependencies": dependencies,
            "policies": dict(self._policies()),
        }
        return msgspec.json.encode(report)

    def error(self) -> Unavailable:
        """Return the error of a suite that is not ready."""
        down = [name for name, state in self._dependencies.snapshot().items() if not state.up]
        msg = f"Not ready: {', '.join(down) or 'the gateway is draining'}."
        return Unavailable(msg, retry_after_s=1.0)
