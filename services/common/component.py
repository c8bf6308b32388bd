"""What a service hands to whoever hosts it: its name, its servicers, its health, its metrics.

`__main__` hosts one component, `weaver up` hosts four. A component knows no socket.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from services.common.health import Health
from services.common.interceptors.call_metrics import CallMetrics


@dataclass(frozen=True)
class Component:
    """A service that is built and waits for a server.

    Attributes:
        name: the service's name, as its certificate carries it: `audit`.
        services: full names of the protobuf services that `register` adds.
        register: adds the servicers to a `grpc.aio.Server` or a `LocalChannel`.
        health: what the service says about itself and its dependencies.
        metrics: the service's own registry, never the global one.
        reload: reads again what can change while the service runs; SIGHUP asks for it.
        calls: what is counted of the calls of it, wherever they come from.
    """

    name: str
    services: tuple[str, ...]
    register: Callable[[Any], None]
    health: Health
    metrics: CollectorRegistry
    reload: Callable[[], None] | None = None
    calls: CallMetrics = field(init=False)

    def __post_init__(self) -> None:
        """Have the registry tell of the calls."""
        object.__setattr__(self, "calls", CallMetrics(self.metrics))
