"""The four services in this process, each on its own port: the one place that knows all four."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from services.audit import wiring as audit_wiring
from services.audit.settings import AuditSettings
from services.cli.local_services import answer, channel_to
from services.common import logs
from services.common.component import Component
from services.common.run import drain, host, settle_in
from services.common.settings import load
from services.gateway.settings import GatewaySettings


class Hosted(NamedTuple):
    """The four services of this process.

    Attributes:
        components: what is served, audit first.
        drain: ends the calls of the gateway.
        stop: ends them, the gateway first and audit last.
        reload: has each read again what can change while it runs.
    """

    components: tuple[Component, ...]
    drain: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    reload: Callable[[], None]


async def start() -> Hosted:
    """Build and serve all four, and return how to end them.

    Raises:
        SettingsError: a variable is missing or bad, or an address is taken.
    """
    audit_settings, gateway_settings = load(AuditSettings), load(GatewaySettings)
    logs.configure(gateway_settings, "weaver")
    async with AsyncExitStack() as stack:
        audit = await audit_wiring.build(audit_settings, stack)
        recording = await host(audit, audit_settings, stack)
        answering = await answer(
            gateway_settings,
            stack,
            lambda caller: channel_to(audit, caller, recording.tracing),
        )
        everything = stack.pop_all()
    settle_in()
    components = (audit, *answering.components)
    *others, gateway = (recording, *answering.handles)
    grace_s = gateway_settings.drain_seconds

    async def stop() -> None:
        await drain((gateway,), grace_s)
        for handle in reversed(others):
            await drain((handle,), grace_s)
        await everything.aclose()

    def reload() -> None:
        for component in components:
            if component.reload is not None:
                component.reload()

    return Hosted(components, partial(drain, (gateway,), grace_s), stop, reload)
