"""The whole suite on this machine: starts its parts, says when it is ready, ends them in order.

It refuses to share a state directory, to use a port that is taken, and to leave anything behind.
"""

import asyncio
import importlib
import os
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.cli import children, development, ports, probe, programs
from services.cli.rundir import RunDirectory
from services.cli.settings import EdgeSettings
from services.cli.supervisor import Supervisor
from services.common import certificates, logs
from services.common.settings import load

if TYPE_CHECKING:
    from services.cli.together import Hosted

READY_WITHIN_S = 60.0
GRACE_S = 5.0
"""What a child gets beyond the time in which it drains."""
SHORT_CALLS_S = 1.0
"""How long the front door waits for calls to end before the gateway refuses new ones."""

_POLL_S = 0.05
_ACTIVE = "/stats?filter=^http.front.downstream_rq_active$"
_IDLE = "http.front.downstream_rq_active: 0"

Say = Callable[[str], None]


class NotReadyError(Exception):
    """The front door did not answer well in time."""


class Suite:
    """One running suite.

    Args:
        separate: one process for each service instead of one for all.
        say: told of progress, in short lines.
    """

    def __init__(self, *, separate: bool, say: Say) -> None:
        """Prepare, without starting anything.

        Raises:
            SettingsError: a variable is bad, or a port is taken.
            MissingToolError: Envoy or Valkey is not installed.
        """
        self.separate = separate
        self._say = say
        development.refuse_elsewhere(os.environ)
        self.state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
        self.run = RunDirectory(self.state)
        self._addresses = ports.addresses(os.environ)
        self._own_valkey = children.needs_valkey(os.environ)
        self._own_cache = children.needs_cache(os.environ)
        programs.envoy()
        if self._own_valkey or self._own_cache:
            programs.valkey()
        self._services: Hosted | None = None

    async def start(self) -> None:
        """Start everything, and return when the front door says that all is well.

        Raises:
            SettingsError: a variable is bad, or a port is taken.
            StartError: a child ended.
            NotReadyError: it takes too long.
        """
        ports.refuse_taken(self._addresses)
        self.supervisor = Supervisor(self._publish)
        if not (self.state / "keys" / development.JWT_KEY).exists():
            self._say("making keys and certificates, as this is the first start")
        development.ensure_keys(self.state)
        added = development.defaults(os.environ, self.state, self.run.sockets)
        os.environ.update(added)
        self.edge = load(EdgeSettings)
        ports.refuse_taken(self._listens())
        logs.configure(self.edge, "weaver")
        certificates.ensure(self.edge)
        ready = asyncio.create_task(self._start_parts())
        failure = asyncio.create_task(self.supervisor.failure())
        try:
            done, _ = await asyncio.wait({ready, failure}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (ready, failure):
                task.cancel()
            await asyncio.gather(ready, failure, return_exceptions=True)
        self.supervisor.settle()
        self._publish()

    async def end(self) -> None:
        """End everything: close the front door, then end who answers, then who records."""
        supervisor = getattr(self, "supervisor", None)
        if supervisor is None:
            return
        drain_s = self.edge.drain_seconds if hasattr(self, "edge") else 0
        if "envoy" in supervisor.children:
            await self._drain_front_door(SHORT_CALLS_S)
        # The gateway ends long streams in its own words, so the front door still stands.
        await asyncio.gather(
            *(supervisor.stop(name, drain_s + GRACE_S) for name in self._gateways()),
            *([self._services.drain()] if self._services is not None else []),
        )
        if self._services is not None:
            await self._services.stop()
        if "envoy" in supervisor.children:
            await self._drain_front_door(SHORT_CALLS_S)
            await supervisor.stop("envoy", GRACE_S)
        for name in reversed(children.SERVICES):
            await supervisor.stop(name, drain_s + GRACE_S)
        await supervisor.stop("cache", GRACE_S)
        await supervisor.stop("valkey", GRACE_S)

    def reload(self) -> None:
        """Have the services read again what can change while they run, such as signing keys."""
        if self._services is not None:
            self._services.reload()
        if hasattr(self, "supervisor"):
            # Where services are together, further gateways have a model service with them.
            for name in children.RELOADING if self.separate else self._gateways():
                self.supervisor.signal(name, signal.SIGHUP)

    def kill(self) -> None:
        """End every child now, and leave nothing behind."""
        if hasattr(self, "supervisor"):
            self.supervisor.kill()
        self.run.clear()

    @property
    def url(self) -> str:
        """The front door, as this machine reaches it."""
        host, port = self._front()
        return f"https://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def ca(self) -> Path:
        """What a client must trust."""
        return self.edge.tls_path / "ca.pem"

    @property
    def audit_log(self) -> Path:
        """Where the audit log lies."""
        path = os.environ.get("WEAVER_AUDIT_PATH")
        return Path(path) if path else self.state.absolute() / "audit" / "log"

    @property
    def api_key(self) -> str | None:
        """The development key; None where the keys are somebody's own."""
        made = str((self.state / "keys" / development.API_KEY).absolute())
        used = os.environ.get("WEAVER_ALLOWED_API_KEYS_FILE") == made
        return development.api_key(self.state) if used else None

    def status(self) -> dict[str, Any]:
        """Return what there is: process ids, ports, restarts."""
        running = self.supervisor.children
        pids: dict[str, int | None] = {name: child.pid for name, child in running.items()}
        if not self.separate:
            pids |= dict.fromkeys(children.SERVICES, os.getpid())
        return {
            "pid": os.getpid(),
            "topology": "separate" if self.separate else "up",
            "pids": pids,
            "restarts": {name: child.restarts for name, child in running.items()},
            "addresses": self._listens() if hasattr(self, "edge") else self._addresses,
        }

    async def _start_parts(self) -> None:
        if self._own_valkey:
            password = os.environ.get("REDIS_PASSWORD", "")
            program, socket = children.valkey(self.run, password)
            os.environ["REDIS_UNIX_SOCKET"] = str(socket)
            await self.supervisor.start(program)
            self._say("valkey holds the limits")
        if self._own_cache:
            program, socket = children.cache(
                self.run,
                os.environ.get("WEAVER_MODEL_CACHE_PASSWORD", ""),
                os.environ.get("WEAVER_MODEL_CACHE_MAX_BYTES", ""),
            )
            os.environ["WEAVER_MODEL_CACHE_ADDRESS"] = str(socket)
            await self.supervisor.start(program)
            self._say("another valkey keeps answers")
        await self.supervisor.start(children.envoy(self.run, self.edge))
        self._say(f"envoy is the front door, {self.url}")
        if self.separate:
            self._say("audit, ratelimit, model and gateway start, a process each")
            *neighbours, gateway = children.SERVICES
            for name in neighbours:
                await self.supervisor.start(children.service(name, os.environ.copy()))
            # Any order works; this one is quickest on few processors.
            for name in neighbours:
                await self._until_listening(f"WEAVER_{name.upper()}_LISTEN")
            await self.supervisor.start(children.service(gateway, os.environ.copy()))
        else:
            self._say("audit, ratelimit, model and gateway start in this process")
            together = importlib.import_module("services.cli.together")
            self._services = await together.start()
        for number in range(2, self.edge.gateway_workers + 1):
            more = children.gateway(number, os.environ, self.edge, separate=self.separate)
            await self.supervisor.start(more)
        if self.edge.gateway_workers > 1:
            self._say(f"gateways 2 to {self.edge.gateway_workers} start beside the first")
        await self._until_well()

    async def _until_listening(self, variable: str) -> None:
        place = probe.reachable(self._addresses[variable], variable)
        while not ports.is_listening(*place):  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(_POLL_S)

    async def _until_well(self) -> None:
        """Wait until the front door reports that everything is well."""
        trust = ssl.create_default_context(cafile=self.ca)
        end = asyncio.get_running_loop().time() + READY_WITHIN_S
        edge_sockets = [listen.removeprefix("unix:") for listen in self.edge.edge_listens]
        last = "the gateway does not listen"
        while asyncio.get_running_loop().time() < end:
            if all(map(os.path.exists, edge_sockets)):
                try:
                    status, body = await probe.request("GET", self._front(), "/health", trust)
                except OSError as error:
                    last = str(error)
                else:
                    if status == 200:  # noqa: PLR2004 - OK
                        return
                    last = f"status {status}, {body}"
            await asyncio.sleep(_POLL_S)
        msg = f"{self.url}/health is not well after {READY_WITHIN_S:.0f} s: {last}"
        raise NotReadyError(msg)

    async def _drain_front_door(self, timeout_s: float) -> None:
        """Take no new connection, and wait for what is under way."""
        admin = probe.reachable(self.edge.admin_listen, "WEAVER_ENVOY_ADMIN_LISTEN")
        try:
            async with asyncio.timeout(timeout_s):
                await probe.request("POST", admin, "/healthcheck/fail")
                await probe.request("POST", admin, "/drain_listeners")
                while await self._is_busy(admin):  # noqa: ASYNC110 - Envoy tells when asked
                    await asyncio.sleep(_POLL_S)
        except OSError:
            return

    @staticmethod
    async def _is_busy(admin: tuple[str, int]) -> bool:
        return _IDLE not in (await probe.request("GET", admin, _ACTIVE))[1]

    def _gateways(self) -> list[str]:
        """Return the names of the gateways that are children."""
        numbers = range(1, self.edge.gateway_workers + 1) if hasattr(self, "edge") else ()
        names = map(children.gateway_name, numbers)
        return [name for name in names if name in self.supervisor.children]

    def _listens(self) -> dict[str, str]:
        """Return all addresses to listen on, by their variables."""
        listens = dict(self._addresses)
        for number in range(2, self.edge.gateway_workers + 1):
            own = ports.of_gateway(number, self._addresses, separate=self.separate)
            listens |= {
                f"{variable} of {children.gateway_name(number)}": address
                for variable, address in own.items()
            }
        return listens

    def _front(self) -> tuple[str, int]:
        return probe.reachable(self._addresses["WEAVER_FRONT_LISTEN"], "WEAVER_FRONT_LISTEN")

    def _publish(self) -> None:
        self.run.publish(self.status())
