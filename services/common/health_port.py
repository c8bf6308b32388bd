"""A port that answers health checks and nothing else, without TLS.

The kubelet and a container's own health check show no certificate, so where they should be able to
ask, a service listens here as well. It tells no more than whether the service is alive and ready,
and it answers until the very end, so that one that drains is seen to drain and not taken for dead.
"""

from contextlib import AsyncExitStack
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from services.common.component import Component
from services.common.health import NOT_SERVING, SERVING, HealthServicer
from services.common.settings import SettingsError, split_address

LIVE = "live"
"""Asks whether the process answers at all: no neighbour and no disk changes it."""
READY = "ready"
"""Asks whether the process takes calls: it has started and is not on its way out."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 4096),
    ("grpc.max_concurrent_streams", 16),
)


class _Probes(HealthServicer):
    """Health, and two names for those who decide over the process."""

    def _status(self, name: str) -> Any:  # noqa: ANN401 - the stubs have no name for it
        if name == LIVE:
            return SERVING
        if name == READY:
            return NOT_SERVING if self.health.draining else SERVING
        return super()._status(name)


async def serve_health(
    component: Component, address: str, variable: str, stack: AsyncExitStack
) -> int | None:
    """Serve a component's health in clear text until the stack closes, and return the port.

    Args:
        component: whose health.
        address: `host:port`; empty serves nothing and returns None.
        variable: the environment variable that sets the address, for error messages.
        stack: ends the server.

    Raises:
        SettingsError: the address is taken or not this machine's.
    """
    if not address:
        return None
    split_address(address, variable)
    server = grpc.aio.server(options=_OPTIONS)
    probes = _Probes(component.health, component.services)
    health_pb2_grpc.add_HealthServicer_to_server(probes, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        msg = (
            f"{variable}: cannot listen on {address}: another program uses it, or it is not an "
            f"address of this machine. Stop that program or set {variable} to another address."
        )
        raise SettingsError(msg) from None
    await server.start()
    stack.push_async_callback(server.stop, 0)
    return port
