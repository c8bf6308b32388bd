"""The front door's TLS, its certificate's renewal, and mutual TLS to the gateway."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody

from tests.integration.edge.certificates import Authority
from tests.integration.edge.conftest import Edge, ScriptedGateway, free_port

pytestmark = pytest.mark.asyncio(loop_scope="session")


WEAK = (
    "ECDHE-ECDSA-AES256-SHA",  # CBC
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA384",
    "AES128-GCM-SHA256",  # no forward secrecy
    "AES256-SHA",
    "DHE-RSA-AES128-GCM-SHA256",
    "NULL-SHA256",
    "aNULL",
    "PSK",
)


def handshake(edge: Edge, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", edge.port), timeout=5)
    try:
        return context.wrap_socket(plain, server_hostname="localhost")
    except BaseException:
        plain.close()
        raise


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["http/1.0"], None)],
)
async def test_alpn_prefers_h2_and_knows_http_1_1(
    edge: Edge, offered: list[str], chosen: str | None
) -> None:
    context = edge.trust
    context.set_alpn_protocols(offered)
    with handshake(edge, context) as connection:
        assert connection.selected_alpn_protocol() == chosen
        assert connection.version() == "TLSv1.3"


async def test_tls_1_2_is_taken_with_modern_ciphers_only(edge: Edge) -> None:
    context = edge.trust
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with handshake(edge, context) as connection:
        assert connection.version() == "TLSv1.2"
    for cipher in WEAK:
        context.set_ciphers(f"{cipher}:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            handshake(edge, context)


async def test_tls_below_1_2_is_refused(edge: Edge) -> None:
    context = edge.trust
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(edge, context)


async def test_plain_http_gets_nothing(edge: Edge) -> None:
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in connection.recv(1000)


async def test_a_renewed_certificate_is_served_without_a_restart(
    another_edge: Callable[..., Edge], tmp_path: Path
) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    authority = Authority(directory)
    authority.issue("front", "localhost", "127.0.0.1")
    edge = another_edge(authority=authority)

    before = _serial(edge)
    authority.issue("front", "localhost", "127.0.0.1")
    await _until_renewed(lambda: _serial(edge) != before)


@contextlib.asynccontextmanager
async def half_a_stream(
    edge: Edge, gateway: ScriptedGateway
) -> AsyncIterator[tuple[httpx.AsyncClient, Callable[[], Awaitable[bytes]]]]:
    """Read the first half of a stream; yield its client and what reads the rest."""
    release = asyncio.Event()

    async def stream(_: object, __: object) -> AsyncIterator[HttpBody]:
        yield HttpBody(content_type="text/event-stream", data=b"first ")
        await release.wait()
        yield HttpBody(content_type="text/event-stream", data=b"last")

    gateway.scripts["ChatCompletions"] = stream
    async with edge.client("h2") as client:
        path = "/v1/chat/completions"
        async with client.stream("POST", path, content=b"{}") as response:
            pieces = response.aiter_raw()
            assert await anext(pieces) == b"first "

            async def rest() -> bytes:
                release.set()
                return b"".join([piece async for piece in pieces])

            yield client, rest


async def test_a_renewal_of_the_certificate_breaks_no_connection(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway, tmp_path: Path
) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    authority = Authority(directory)
    authority.issue("front", "localhost", "127.0.0.1")
    edge = another_edge(authority=authority)
    async with half_a_stream(edge, gateway) as (client, rest):
        before = _serial(edge)
        authority.issue("front", "localhost", "127.0.0.1")
        await _until_renewed(lambda: _serial(edge) != before)
        assert (await client.get("/health")).status_code == 200  # on the same connection
        assert await rest() == b"last"


async def test_a_renewal_of_envoys_own_certificate_breaks_no_stream(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway, tmp_path: Path
) -> None:
    directory = tmp_path / "own"
    directory.mkdir()
    authority = Authority(directory)
    for name in ("front", "gateway", "envoy"):
        authority.issue(name, f"spiffe://weaver/{name}", name, "localhost", "127.0.0.1")
    async with gateway_with_mutual_tls(gateway, authority, "gateway") as port:
        edge = another_edge(
            target="container", authority=authority, gateway_address=f"127.0.0.1:{port}"
        )
        async with half_a_stream(edge, gateway) as (client, rest):
            updates = "/stats?filter=cluster.gateway.*ssl_context_update_by_sds"
            before = edge.admin(updates)
            authority.issue("envoy", "spiffe://weaver/envoy")
            await _until_renewed(lambda: edge.admin(updates) != before)
            assert (await client.get("/health")).status_code == 200
            assert await rest() == b"last"


def _serial(edge: Edge) -> object:
    with handshake(edge, edge.trust) as connection:
        certificate = connection.getpeercert()
        assert certificate
        return certificate["serialNumber"]


async def _until_renewed(renewed: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not renewed():
        assert time.monotonic() < deadline, "the old certificate is still used"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def gateway_with_mutual_tls(
    gateway: ScriptedGateway, authority: Authority, certificate: str
) -> AsyncIterator[int]:
    directory = authority.directory
    credentials = grpc.ssl_server_credentials(
        [
            (
                (directory / f"{certificate}-key.pem").read_bytes(),
                (directory / f"{certificate}.pem").read_bytes(),
            )
        ],
        (directory / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    server = grpc.aio.server()
    gateway.register(server)
    port = free_port()
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    yield port
    await server.stop(None)


@pytest.mark.parametrize(
    ("name", "uri", "status"),
    [
        ("gateway", "spiffe://weaver/gateway", 200),
        ("model", "spiffe://weaver/model", 503),
    ],
)
async def test_only_a_peer_with_the_gateways_name_is_called(  # noqa: PLR0913, PLR0917 - fixtures
    another_edge: Callable[..., Edge],
    authority: Authority,
    gateway: ScriptedGateway,
    name: str,
    uri: str,
    status: int,
) -> None:
    authority.issue("envoy", "spiffe://weaver/envoy")
    authority.issue(name, uri, name, "127.0.0.1")
    async with gateway_with_mutual_tls(gateway, authority, name) as port:
        edge = another_edge(target="container", gateway_address=f"127.0.0.1:{port}")
        async with edge.client() as client:
            response = await client.get("/v1/models")
    assert response.status_code == status, response.text
    if status == 200:
        assert gateway.last.peer == [b"spiffe://weaver/envoy"]


async def test_a_gateway_of_another_authority_is_not_called(
    another_edge: Callable[..., Edge],
    authority: Authority,
    gateway: ScriptedGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority.issue("envoy", "spiffe://weaver/envoy")
    stranger = Authority(tmp_path_factory.mktemp("stranger"))
    stranger.issue("gateway", "spiffe://weaver/gateway")
    shutil.copy(authority.directory / "ca.pem", stranger.directory / "ca.pem")
    async with gateway_with_mutual_tls(gateway, stranger, "gateway") as port:
        edge = another_edge(target="container", gateway_address=f"127.0.0.1:{port}")
        async with edge.client() as client:
            assert (await client.get("/v1/models")).status_code == 503
