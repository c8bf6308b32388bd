"""A neighbour's own word on how it is, over grpc.health.v1."""

from collections.abc import Mapping
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.channel import call
from services.common.health import Health

TIMEOUT_S = 1.0
PACKAGE = "weaver."


class HealthClient:
    """The port `Neighbour`.

    Args:
        channel: to the neighbour.
    """

    def __init__(self, channel: Any) -> None:  # noqa: ANN401 - gRPC's or local
        """See the class."""
        self._stub: Any = health_pb2_grpc.HealthStub(channel)
        self._request = getattr(health_pb2, "HealthListRequest")()  # noqa: B009 - newer than the stubs' types

    async def states(self) -> Mapping[str, bool]:
        """Return whether the service (empty name) and its dependencies serve."""
        response = await call(self._stub.List, self._request, timeout_s=TIMEOUT_S)
        serving = health_pb2.HealthCheckResponse.SERVING
        return {
            name: state.status == serving
            for name, state in response.statuses.items()
            if not name.startswith(PACKAGE)
        }


class OwnHealth:
    """The port `Neighbour`, for what the gateway itself depends on: keys, files.

    Args:
        health: the gateway's.
    """

    def __init__(self, health: Health) -> None:
        """See the class."""
        self._health = health

    async def states(self) -> Mapping[str, bool]:
        """Return how they are; of the gateway itself only that it is there."""
        states = {name: serving for name, (serving, _) in self._health.snapshot().items()}
        return states | {"": True}
