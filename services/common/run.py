"""The life of a process: settings, logs, servers, signals, a graceful end.

`serve` is the whole `main` of a service. `weaver up` uses the parts: `host` for each of its
components, then `until_stopped`, then `drain` for all of them together.
"""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Protocol, TypeVar, cast

import structlog
import uvloop

from services.common import logs
from services.common.component import Component
from services.common.health_port import serve_health
from services.common.metrics import serve_metrics
from services.common.process_metrics import ProcessMetrics
from services.common.server import Listener, ServerHandle, start_server
from services.common.settings import CommonSettings, SettingsError, load_or_exit

SWITCH_S = 0.0005

_log = structlog.get_logger()


class Served(Protocol):
    """What a service's settings say about where it is served, beside `CommonSettings`."""

    @property
    def listen(self) -> str:
        """Where to listen: `host:port`."""
        ...

    @property
    def metrics_listen(self) -> str:
        """Where to serve metrics: `host:port`; empty for nowhere."""
        ...

    @property
    def health_listen(self) -> str:
        """Where to answer health checks in clear text: `host:port`; empty for nowhere."""
        ...

    @property
    def allowed_clients(self) -> Collection[str]:
        """The services that may call."""
        ...


Settings = TypeVar("Settings", bound=CommonSettings)
Build = Callable[[Settings, AsyncExitStack], Awaitable[Component]]
Listeners = Callable[[Settings], Sequence[Listener]]


async def host(
    component: Component,
    settings: CommonSettings,
    stack: AsyncExitStack,
    *,
    listeners: Sequence[Listener] | None = None,
) -> ServerHandle:
    """Serve a component and its metrics where its settings say.

    Args:
        component: what to serve.
        settings: also a `Served`.
        stack: ends everything when it closes.
        listeners: where to serve; None for one `NEIGHBOUR` listener at `settings.listen`.

    Raises:
        SettingsError: an address is taken, or a certificate is bad.
    """
    served = cast("Served", settings)
    prefix = f"WEAVER_{component.name.upper()}"
    if listeners is None:
        listeners = (Listener(served.listen, variable=f"{prefix}_LISTEN"),)
    ProcessMetrics(component.metrics, component.name, settings)
    if settings.telemetry_enabled and settings.telemetry_metrics_seconds:
        # The SDK is large, and most processes run without it.
        from services.common.metrics_push import start_push  # noqa: PLC0415

        start_push(component.metrics, component.name, settings, stack)
    serve_metrics(component.metrics, served.metrics_listen, f"{prefix}_METRICS_LISTEN", stack)
    handle = await start_server(
        component,
        settings,
        stack,
        listeners,
        allowed_clients=getattr(served, "allowed_clients", ()),
    )
    await serve_health(component, served.health_listen, f"{prefix}_HEALTH_LISTEN", stack)
    return handle


def settle_in() -> None:
    """Prepare the interpreter for a long life, once everything is built.

    Threads that wait for a disk get the interpreter back after half a millisecond instead of five
    when the event loop is busy, and what start-up made is no longer looked at by the collector.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()


async def until_drained(
    handles: Sequence[ServerHandle], settings: CommonSettings, reload: Callable[[], None] | None
) -> None:
    """Wait until told to stop, then drain.

    Args:
        handles: what is served.
        settings: how long it may take.
        reload: what SIGHUP does; None for nothing.
    """
    _on_hangup(reload)
    await until_stopped()
    notice_s = settings.drain_notice_seconds
    _log.info("draining", notice_s=notice_s, grace_s=settings.drain_seconds)
    await asyncio.gather(*(handle.announce(notice_s) for handle in handles))
    await drain(handles, settings.drain_seconds)


async def until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stopped.set)
    try:
        await stopped.wait()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


async def drain(handles: Iterable[ServerHandle], grace_s: float) -> None:
    """Drain several components together."""
    await asyncio.gather(*(handle.drain(grace_s) for handle in handles))


def _on_hangup(reload: Callable[[], None] | None) -> None:
    """Have SIGHUP read files again; where there is nothing to read, it ends only in a terminal."""
    if reload is None:
        if sys.stdin is not None and sys.stdin.isatty():
            return
        reload = partial(_log.info, "told to reload: files are read again by themselves")
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def serve(
    kind: type[Settings], build: Build[Settings], *, listeners: Listeners[Settings] | None = None
) -> None:
    """Run one service until it is told to stop: the whole `main` of a service.

    Args:
        kind: its class of settings, also a `Served`.
        build: its wiring.
        listeners: where to serve; None for one `NEIGHBOUR` listener at `settings.listen`.

    Raises:
        SystemExit: 2 with a sentence when the service cannot start.
    """
    settings = load_or_exit(kind)

    async def main() -> None:
        logs.configure(settings, settings.otel_service_name)
        async with AsyncExitStack() as stack:
            component = await build(settings, stack)
            logs.service.set(component.name)
            where = None if listeners is None else listeners(settings)
            handle = await host(component, settings, stack, listeners=where)
            settle_in()
            await until_drained((handle,), settings, component.reload)
        _log.info("stopped")

    try:
        uvloop.run(main())
    except SettingsError as error:
        sys.stderr.write(f"weaver: cannot start: {error}\n")
        raise SystemExit(2) from None
