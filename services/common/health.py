"""What a service says about itself and its dependencies, served as grpc.health.v1.

The empty name is the service itself: whether it can do its work. Other names are its dependencies
(`store`, `disk`, `provider:openai`), reported but never added up here: a service that serves in a
degraded way stays serving, and only it knows when it does not.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, cast

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.errors import NotFound

SERVICE_NAME = "grpc.health.v1.Health"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The state of a service and its dependencies; used from one event loop."""

    def __init__(self) -> None:
        """Start as not serving: a service says when it is ready."""
        self._states: dict[str, tuple[bool, str]] = {"": (False, "starting")}
        self._draining = False
        self._changed: asyncio.Event = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the service itself can do its work."""
        return not self._draining and self._states[""][0]

    @property
    def draining(self) -> bool:
        """Whether the service is on its way out."""
        return self._draining

    def set(self, name: str, serving: bool, detail: str = "") -> None:  # noqa: FBT001 - a state
        """Say how the service (empty name) or a dependency is; watchers learn of a change.

        Args:
            name: empty for the service, else the dependency.
            serving: whether it can do its work.
            detail: one short sentence for operators; never a secret.
        """
        if self._states.get(name) == (serving, detail):
            return
        self._states[name] = (serving, detail)
        self._notify()

    def drain(self) -> None:
        """Report not serving from now on, whatever is set later, and end all watches."""
        self._draining = True
        self._notify()

    def snapshot(self) -> dict[str, tuple[bool, str]]:
        """Return each name with its state and detail."""
        states = dict(self._states)
        if self._draining:
            states[""] = (False, "draining")
        return states

    def next_change(self) -> asyncio.Event:
        """Return what is set at the next change; ask before looking, so that none is missed."""
        return self._changed

    def _notify(self) -> None:
        event, self._changed = self._changed, asyncio.Event()
        event.set()


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Serves a `Health` as grpc.health.v1: Check, Watch and List.

    Args:
        health: the state to serve.
        services: protobuf services that are asked for by name; each is as the service itself.
    """

    def __init__(self, health: Health, services: Iterable[str]) -> None:
        """See the class."""
        self.health = health
        self._services = frozenset(services)

    async def Check(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: object,  # noqa: ARG002 - gRPC's signature
    ) -> health_pb2.HealthCheckResponse:
        """Return the state of one name."""
        status = self._status(request.service)
        if status == _UNKNOWN:
            msg = "No service or dependency of this name."
            raise NotFound(msg)
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802 - gRPC's name
        self,
        request: Any,  # noqa: ANN401, ARG002 - newer than the stubs' types
        context: object,  # noqa: ARG002 - gRPC's signature
    ) -> Any:  # noqa: ANN401
        """Return the state of every name."""
        names = {*self.health.snapshot(), *self._services}
        statuses = {
            name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names
        }
        return cast("Any", health_pb2).HealthListResponse(statuses=statuses)

    async def Watch(  # noqa: N802 - gRPC's name
        self,
        request: health_pb2.HealthCheckRequest,
        context: object,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """Yield the state of one name now and at each change, until the service drains."""
        last: int | None = None
        while True:
            change = self.health.next_change()
            status = self._status(request.service)
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            if self.health.draining:
                return
            await change.wait()

    def _status(self, name: str) -> Any:  # noqa: ANN401 - the stubs have no name for it
        if name in self._services:
            name = ""
        state = self.health.snapshot().get(name)
        if state is None:
            return _UNKNOWN
        return SERVING if state[0] else NOT_SERVING
