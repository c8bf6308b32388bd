"""A component's gRPC server: listeners, TLS, interceptors, health, and a graceful end.

Each listener is a server of its own over the same servicers, because what is believed of a caller
depends on where it came in.
"""

import asyncio
import enum
import os
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import certificates, tls
from services.common.component import Component
from services.common.health import SERVICE_NAME as HEALTH
from services.common.health import HealthServicer
from services.common.interceptors.access_log import AccessLog
from services.common.interceptors.chain import Chain, Interceptor
from services.common.interceptors.deadline import Deadline
from services.common.interceptors.errors import Errors
from services.common.interceptors.peer import Peer
from services.common.interceptors.telemetry import Telemetry
from services.common.settings import CommonSettings, SettingsError, split_address
from services.common.telemetry import Tracing, start_tracing

_log = structlog.get_logger()

MESSAGE_BYTES = 32 * 1024 * 1024
DEFAULT_DEADLINE_S = 30.0
_ENVOY = "envoy"
_RENEWAL_S = 3600.0
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 32 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# A long stream gets an hour to end by itself.
_AGE_GRACE_MS = 60 * 60_000


class Kind(enum.Enum):
    """Whom a listener is for."""

    NEIGHBOUR = "neighbour"
    """Services of the suite: mutual TLS, and a list of allowed names."""
    PUBLIC = "public"
    """Anyone: TLS without client certificates; request ids are not believed."""
    EDGE = "edge"
    """Envoy alone: a Unix socket of our own user, or mutual TLS with Envoy's certificate."""


@dataclass(frozen=True)
class Listener:
    """Where to listen, and for whom.

    Attributes:
        address: `host:port` (port 0 takes a free one) or `unix:/path`.
        kind: whom it is for.
        variable: the environment variable that sets the address, for error messages.
    """

    address: str
    kind: Kind = Kind.NEIGHBOUR
    variable: str = "the listen address"


class ServerHandle:
    """A component that is being served.

    Attributes:
        component: what is served.
        addresses: what each listener listens on, with the real port.
        ports: their ports; 0 for a Unix socket.
        tracing: how the component traces; None with telemetry off.
    """

    def __init__(
        self,
        component: Component,
        servers: Sequence[grpc.aio.Server],
        addresses: Sequence[str],
        tracing: Tracing | None = None,
    ) -> None:
        """See the class."""
        self.component = component
        self.tracing = tracing
        self.addresses = tuple(addresses)
        self.ports = tuple(
            0 if address.startswith("unix:") else int(address.rpartition(":")[2])
            for address in addresses
        )
        self._servers = tuple(servers)

    async def announce(self, notice_s: float) -> None:
        """Report not serving, and take calls for so long still, so that callers can look around."""
        self.component.health.drain()
        await asyncio.sleep(notice_s)

    async def drain(self, grace_s: float) -> None:
        """Report not serving, refuse new calls, let those in flight end within the grace."""
        self.component.health.drain()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))


async def start_server(  # noqa: PLR0913 - each is a decision of the host
    component: Component,
    settings: CommonSettings,
    stack: AsyncExitStack,
    listeners: Sequence[Listener],
    *,
    allowed_clients: Collection[str] = (),
    interceptors: Sequence[Interceptor] = (),
    default_deadline_s: float = DEFAULT_DEADLINE_S,
) -> ServerHandle:
    """Serve a component until the stack closes or the handle is drained.

    Args:
        component: what to serve.
        settings: TLS, environment.
        stack: stops the servers at once when it closes; drain first to be graceful.
        listeners: where.
        allowed_clients: names that may call on `NEIGHBOUR` listeners.
        interceptors: further ones, innermost.
        default_deadline_s: the longest time for a unary call that came without a deadline.

    Raises:
        SettingsError: an address cannot be used, or a certificate is missing or bad.
    """
    if settings.mtls_enabled:
        certificates.ensure(settings)
        renewal = asyncio.create_task(_renew(settings))
        stack.callback(renewal.cancel)
    else:
        _log.warning("mutual TLS is off: anyone on this network can call", service=component.name)
    calls = component.calls
    tracing = start_tracing(settings, component.name, stack, component.metrics)
    servers: list[grpc.aio.Server] = []
    addresses: list[str] = []
    for listener in listeners:
        chain: tuple[Interceptor, ...] = (
            Telemetry(
                calls,
                component.name,
                trusted=listener.kind is not Kind.PUBLIC,
                tracing=tracing,
                begins=listener.kind is not Kind.NEIGHBOUR,
            ),
            AccessLog(),
            Errors(calls),
            Deadline(default_deadline_s),
            _peer(listener, settings, allowed_clients),
            *interceptors,
        )
        unix = listener.address.startswith("unix:")
        server = grpc.aio.server(
            interceptors=[Chain(chain, calls.unknown)],
            options=_OPTIONS if unix else (*_OPTIONS, *_age(settings)),
        )
        _register(component, server, settings)
        addresses.append(_bind(server, listener, settings, component.name))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        servers.append(server)
    _log.info("listening", service=component.name, addresses=addresses)
    return ServerHandle(component, servers, addresses, tracing)


def _age(settings: CommonSettings) -> tuple[tuple[str, int], ...]:
    """Return how old a connection gets: its client then looks up the address anew, and connects.

    gRPC spreads the age by a tenth either way.
    """
    return (
        ("grpc.max_connection_age_ms", int(settings.connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", _AGE_GRACE_MS),
    )


async def _renew(settings: CommonSettings) -> None:
    """Renew the certificates that we made ourselves, in processes that run for weeks."""
    while True:
        await asyncio.sleep(_RENEWAL_S)
        try:
            made = await asyncio.to_thread(certificates.ensure, settings)
        except Exception:  # noqa: BLE001 - the old ones serve on, and the next attempt may succeed
            _log.exception("cannot renew certificates")
            continue
        if made:
            _log.info("certificates renewed", names=made)


class _ByName:
    """Registers servicers so that their methods are found by name, when they are called.

    Generated code also registers each method with the core. `grpc.aio` then waits for all of them
    anew with every call, one future a method: what a call costs would grow with the contract.

    Args:
        server: gRPC's.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Leave it at the generic handlers, which know the same methods."""


def _register(component: Component, server: Any, settings: CommonSettings) -> None:  # noqa: ANN401
    by_name: Any = _ByName(server)
    component.register(by_name)
    health_pb2_grpc.add_HealthServicer_to_server(
        HealthServicer(component.health, component.services), by_name
    )
    if settings.environment == "development":
        names = (*component.services, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)


def _peer(
    listener: Listener, settings: CommonSettings, allowed_clients: Collection[str]
) -> Interceptor:
    if listener.kind is Kind.PUBLIC:
        return Peer(None, name="")
    if listener.kind is Kind.NEIGHBOUR:
        return Peer(allowed_clients, believe_metadata=not settings.mtls_enabled)
    if listener.address.startswith("unix:") or not settings.mtls_enabled:
        return Peer(None, name=_ENVOY)
    return Peer((_ENVOY,))


def _bind(server: grpc.aio.Server, listener: Listener, settings: CommonSettings, name: str) -> str:
    address = listener.address
    if address.startswith("unix:"):
        return _bind_unix(server, listener)
    host, _ = split_address(address, listener.variable)
    _refuse_taken(listener)
    try:
        if settings.mtls_enabled:
            credentials = tls.server_credentials(
                settings, name, client_certificates=listener.kind is not Kind.PUBLIC
            )
            port = server.add_secure_port(address, credentials)
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        raise _taken(listener) from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_unix(server: grpc.aio.Server, listener: Listener) -> str:
    """Listen on a Unix socket that only our own user can open."""
    path = Path(listener.address.removeprefix("unix:"))
    if listener.kind is not Kind.EDGE:
        msg = f"{listener.variable}: only the edge listener can be a Unix socket."
        raise SettingsError(msg)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists():
        if not path.is_socket():
            msg = f"{listener.variable}: {path} exists and is not a socket."
            raise SettingsError(msg)
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise _taken(listener)
        path.unlink()
    before = os.umask(0o177)
    try:
        server.add_insecure_port(listener.address)
    except RuntimeError:
        raise _taken(listener) from None
    finally:
        os.umask(before)
    return listener.address


def _refuse_taken(listener: Listener) -> None:
    """Find out about a taken port before gRPC does, whose own message nobody can use."""
    host, port = split_address(listener.address, listener.variable)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        msg = f"{listener.variable}: cannot listen on {listener.address}: {error.strerror}."
        raise SettingsError(msg) from None
    for family, kind, protocol, _, address in infos:
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError:
                raise _taken(listener) from None


def _taken(listener: Listener) -> SettingsError:
    return SettingsError(
        f"{listener.variable}: cannot listen on {listener.address}: "
        "another program uses it, or it is not an address of this machine. "
        f"Stop that program or set {listener.variable} to another address."
    )
