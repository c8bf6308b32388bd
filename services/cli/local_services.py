"""The gateway with its limiter and its model service in one process, beside whoever records.

They reach each other through local channels, with the same stubs and messages as over gRPC.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from grpc_health.v1 import health_pb2_grpc

from services.common.component import Component
from services.common.health import HealthServicer
from services.common.local import LocalChannel
from services.common.run import host
from services.common.server import Listener, ServerHandle
from services.common.settings import load
from services.common.telemetry import Tracing
from services.gateway import wiring as gateway_wiring
from services.gateway.settings import GatewaySettings
from services.model import wiring as model_wiring
from services.model.settings import ModelSettings
from services.ratelimit import wiring as ratelimit_wiring
from services.ratelimit.settings import RatelimitSettings

AuditChannel = Callable[[str], Any]
"""Returns how a service that it names reaches the audit service; None: as its settings say."""


class Answering(NamedTuple):
    """What answers calls: everything but the audit service.

    Attributes:
        components: what was built.
        handles: what is served of it, in the order of its start: the gateway comes last.
    """

    components: tuple[Component, ...]
    handles: tuple[ServerHandle, ...]

    def reload(self) -> None:
        """Have each read again what can change while it runs."""
        for component in self.components:
            if component.reload is not None:
                component.reload()


async def answer(
    settings: GatewaySettings,
    stack: AsyncExitStack,
    audit: AuditChannel,
    neighbours: Sequence[Listener] | None = None,
) -> Answering:
    """Build the three, and serve them.

    Args:
        settings: the gateway's; the others' are read here.
        stack: ends what is started, the gateway first.
        audit: see `AuditChannel`.
        neighbours: where limiter and model service listen; None: where their settings say.

    Raises:
        SettingsError: a variable is missing or bad, or an address is taken.
    """
    ratelimit_settings, model_settings = load(RatelimitSettings), load(ModelSettings)
    ratelimit = await ratelimit_wiring.build(ratelimit_settings, stack, audit("ratelimit"))
    limiting = await host(ratelimit, ratelimit_settings, stack, listeners=neighbours)
    model = await model_wiring.build(model_settings, stack, audit("model"))
    generating = await host(model, model_settings, stack, listeners=neighbours)
    channels = gateway_wiring.Neighbours(
        ratelimit=channel_to(ratelimit, "gateway", limiting.tracing),
        model=channel_to(model, "gateway", generating.tracing),
        audit=audit("gateway"),
    )
    gateway = await gateway_wiring.build(settings, stack, channels)
    listeners = gateway_wiring.listeners(settings)
    serving = await host(gateway, settings, stack, listeners=listeners)
    return Answering((ratelimit, model, gateway), (limiting, generating, serving))


def channel_to(component: Component, caller: str, tracing: Tracing | None = None) -> LocalChannel:
    """Return a channel to a component of this process, for a caller of it."""
    channel = LocalChannel(caller, component.calls, tracing)
    component.register(channel)
    health = HealthServicer(component.health, component.services)
    health_pb2_grpc.add_HealthServicer_to_server(health, channel)  # type: ignore[arg-type]
    return channel
