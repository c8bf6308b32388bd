"""What Envoy bears: slow and many clients, proxies in front, a gateway that restarts."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest

from tests.integration.edge.conftest import Edge, ScriptedGateway, free_port

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def connect(edge: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", edge.port, ssl=edge.trust, server_hostname="localhost"
    )


async def test_connections_beyond_the_limit_are_closed(another_edge: Callable[..., Edge]) -> None:
    edge = another_edge(max_connections=3)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            _, writer = await connect(edge)
            stack.callback(writer.close)
        with pytest.raises((OSError, ssl.SSLError)):
            await connect(edge)


async def test_headers_that_never_end_are_given_up(edge: Edge) -> None:
    reader, writer = await connect(edge)
    started = time.monotonic()
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            await reader.read()
    assert 5 < time.monotonic() - started < 15
    writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.0\r\nhost: x\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
        b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /health\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
async def test_ambiguous_requests_reach_nobody(
    edge: Edge, gateway: ScriptedGateway, head: bytes
) -> None:
    reader, writer = await connect(edge)
    writer.write(head)
    async with asyncio.timeout(5):
        answer = await reader.read(100)
    assert b" 4" in answer.split(b"\r\n")[0]
    assert gateway.calls == []
    writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /health HTTP/1.1\r\nhost: x\r\nx-large: " + b"v" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400),
        (b"G@T /health HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
    ],
)
async def test_what_envoy_refuses_has_an_id_even_where_no_head_could_be_read(
    edge: Edge, head: bytes, status: int
) -> None:
    reader, writer = await connect(edge)
    writer.write(head)
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(5):
            answer = await reader.read(4000)
    writer.close()
    lines = answer.decode().split("\r\n")
    assert f" {status} " in lines[0]
    headers = dict(line.split(": ", 1) for line in lines if ": " in line and "{" not in line)
    assert len(headers["x-request-id"]) == 36
    assert headers.get("request-id", headers["x-request-id"]) == headers["x-request-id"]


async def test_a_trusted_proxy_names_the_caller(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway
) -> None:
    edge = another_edge(trusted_hops=1)
    async with edge.client() as client:
        await client.get("/health", headers={"x-forwarded-for": "6.6.6.6, 203.0.113.7"})
    assert gateway.last.metadata["x-weaver-client-address"] == "203.0.113.7"


async def test_without_a_trusted_proxy_nobody_names_the_caller(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    async with edge.client() as client:
        await client.get("/health", headers={"x-forwarded-for": "203.0.113.7"})
    assert gateway.last.metadata["x-weaver-client-address"] == "127.0.0.1"


async def test_the_metrics_listener_serves_metrics_and_readiness_alone(
    another_edge: Callable[..., Edge],
) -> None:
    place = f"127.0.0.1:{free_port()}"
    another_edge(metrics_listen=place)
    async with httpx.AsyncClient(base_url=f"http://{place}", trust_env=False) as client:
        metrics = (await client.get("/metrics")).text
        assert "envoy_http_downstream_rq_xx" in metrics
        assert (await client.get("/ready")).text.strip() == "LIVE"
        for path in ("/", "/config_dump", "/stats", "/certs", "/ready/../config_dump"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/quitquitquit")).status_code == 404
        assert (await client.post("/ready")).status_code == 404


async def test_a_gateway_that_restarts_is_found_again_at_once(
    another_edge: Callable[..., Edge], socket_directory: Path
) -> None:
    place = f"unix:{socket_directory}/restarting"
    edge = another_edge(edge_listen=place)

    async def start() -> tuple[grpc.aio.Server, ScriptedGateway]:
        gateway = ScriptedGateway()
        server = grpc.aio.server()
        gateway.register(server)
        server.add_insecure_port(place)
        await server.start()
        return server, gateway

    server, _ = await start()
    async with edge.client() as client:
        assert (await client.get("/health")).status_code == 200
        await server.stop(None)
        assert (await client.get("/health")).status_code == 503
        server, gateway = await start()
        started = time.monotonic()
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.01)
        assert time.monotonic() - started < 1
        assert len(gateway.calls) == 1
    await server.stop(None)
