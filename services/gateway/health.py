"""What `/health` says: live, ready and degraded apart, and the parts that matter to callers.

It tells a stranger whether calls are served and which part is at fault; what is below the parts,
the load and the policies in force only where the deployment says so, or to who may read them.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from services.common.errors import NotFound, Unavailable
from services.gateway.dependencies import Dependencies
from services.gateway.recorder import Recorder


class Draining(Protocol):
    """Knows whether the process is on its way out."""

    @property
    def draining(self) -> bool:
        """Whether it is."""
        ...


class Load(Protocol):
    """Knows how much there is to do."""

    @property
    def calls(self) -> int:
        """Requests in flight."""
        ...

    @property
    def front(self) -> int:
        """Those of them that no provider has yet."""
        ...

    @property
    def front_limit(self) -> int:
        """How many of these may be now."""
        ...

    @property
    def shedding(self) -> bool:
        """Whether requests were refused in the last seconds for want of room."""
        ...


class HealthReport:
    """Writes the report.

    Args:
        dependencies: the neighbours.
        recorder: whether the log takes records.
        policies: tells what this deployment has decided.
        process: whether this process is on its way out.
        load: how much there is to do.
        public_details: whether strangers learn everything.
        records_needed: whether a call is refused when the log does not take its record.
    """

    def __init__(  # noqa: PLR0913 - what is reported on
        self,
        dependencies: Dependencies,
        recorder: Recorder,
        policies: Callable[[], Mapping[str, str]],
        process: Draining,
        load: Load,
        *,
        public_details: bool = True,
        records_needed: bool = True,
    ) -> None:
        """See the class."""
        self._dependencies = dependencies
        self._recorder = recorder
        self._policies = policies
        self._records_needed = records_needed
        self._process = process
        self._load = load
        self._public_details = public_details

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
        """`ok`, `degraded` (it serves, but something is down or too much) or `unavailable`."""
        if not self.ready:
            return "unavailable"
        down = self._dependencies.degraded or self._recorder.stall is not None
        return "degraded" if down or self._load.shedding else "ok"

    def probe(self, name: str) -> tuple[bytes, bool]:
        """Return what a probe says, as ASCII JSON, and whether all is as it asks.

        Args:
            name: `live`, `ready`, or empty for everything that anybody may know.

        Raises:
            NotFound: there is no such probe.
        """
        if name == "live":
            return b'{"status":"ok","live":true}', True
        if name == "ready":
            return msgspec.json.encode({"status": self.status, "ready": self.ready}), self.ready
        if name:
            msg = "Unknown probe: ask /health, /health/live or /health/ready."
            raise NotFound(msg)
        return self.body(details=self._public_details), self.ready

    def body(self, *, details: bool = True) -> bytes:
        """Return the report as ASCII JSON.

        Args:
            details: also what is below the parts, the load in numbers, and the policies.
        """
        dependencies = {
            name: "ok" if state.up else "down"
            for name, state in self._dependencies.snapshot().items()
            if details or "." not in name
        }
        if self._recorder.stall is not None:
            dependencies["audit"] = "down"
        report = {
            "status": self.status,
            "live": True,
            "ready": self.ready,
            "load": "shedding" if self._load.shedding else "ok",
            "dependencies": dependencies,
        }
        if details:
            report["requests"] = {
                "in_flight": self._load.calls,
                "in_front": self._load.front,
                "in_front_limit": self._load.front_limit,
            }
            report["policies"] = dict(self._policies())
        return msgspec.json.encode(report)

    def error(self) -> Unavailable:
        """Return the error of a suite that is not ready."""
        down = [
            name
            for name, state in self._dependencies.snapshot().items()
            if not state.up and (self._public_details or "." not in name)
        ]
        msg = f"Not ready: {', '.join(down) or 'the gateway is draining'}."
        return Unavailable(msg, retry_after_s=1.0)
