"""The four services in this process, each on its own port, the gateway beside its neighbours.

The one place that knows all four: they reach each other through local channels, with the same stubs
and messages as over gRPC.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

from grpc_health.v1 import health_pb2_grpc

from services.audit import wiring as audit_wiring
from services.audit.settings import AuditSettings
from services.common import logs
from services.common.component import Component
from services.common.health import HealthServicer
from services.common.local import LocalChannel
from services.common.run import drain, host, settle_in
from services.common.server import ServerHandle
from services.common.settings import load
from services.common.telemetry import Tracing
from services.gateway import wiring as gateway_wiring
from services.gateway.settings import GatewaySettings
from services.model import wiring as model_wiring
from services.model.settings import ModelSettings
from services.ratelimit import wiring as ratelimit_wiring
from services.ratelimit.settings import RatelimitSettings


class Hosted(NamedTuple):
    """The four services of this process.

    Attributes:
        stop: ends them, the gateway first and audit last.
        reload: has each read again what can change while it runs.
    """

    stop: Callable[[], Awaitable[None]]
    reload: Callable[[], None]


async def start() -> Hosted:
    """Build and serve all four, and return how to end them.

    Raises:
        SettingsError: a variable is missing or bad, or an address is taken.
    """
    audit_settings, ratelimit_settings = load(AuditSettings), load(RatelimitSettings)
    model_settings, gateway_settings = load(ModelSettings), load(GatewaySettings)
    logs.configure(gateway_settings, "weaver")
    async with AsyncExitStack() as stack:
        audit = await audit_wiring.build(audit_settings, stack)
        handles = [await host(audit, audit_settings, stack)]
        audit_tracing = handles[-1].tracing
        ratelimit = await ratelimit_wiring.build(
            ratelimit_settings, stack, channel_to(audit, "ratelimit", audit_tracing)
        )
        handles.append(await host(ratelimit, ratelimit_settings, stack))
        ratelimit_tracing = handles[-1].tracing
        model = await model_wiring.build(
            model_settings, stack, channel_to(audit, "model", audit_tracing)
        )
        handles.append(await host(model, model_settings, stack))
        neighbours = gateway_wiring.Neighbours(
            ratelimit=channel_to(ratelimit, "gateway", ratelimit_tracing),
            model=channel_to(model, "gateway", handles[-1].tracing),
            audit=channel_to(audit, "gateway", audit_tracing),
        )
        gateway = await gateway_wiring.build(gateway_settings, stack, neighbours)
        listeners = gateway_wiring.listeners(gateway_settings)
        handles.append(await host(gateway, gateway_settings, stack, listeners=listeners))
        everything = stack.pop_all()
    settle_in()

    async def stop() -> None:
        await _drain(handles, gateway_settings.drain_seconds)
        await everything.aclose()

    def reload() -> None:
        for component in (audit, ratelimit, model, gateway):
            if component.reload is not None:
                component.reload()

    return Hosted(stop, reload)


def channel_to(component: Component, caller: str, tracing: Tracing | None = None) -> LocalChannel:
    """Return a channel to a component of this process, for a caller of it."""
    channel = LocalChannel(caller, component.calls, tracing)
    component.register(channel)
    health = HealthServicer(component.health, component.services)
    health_pb2_grpc.add_HealthServicer_to_server(health, channel)  # type: ignore[arg-type]
    return channel


async def _drain(handles: list[ServerHandle], grace_s: float) -> None:
    for handle in reversed(handles):
        await drain((handle,), grace_s)
