"""Too much for Envoy itself: it says so, in the shape that clients know, and lives."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from google.api.httpbody_pb2 import HttpBody

from services.cli import edge as configuration
from tests.integration.edge.conftest import Edge, ScriptedGateway
from tests.integration.edge.replies import assert_vendor_shaped

pytestmark = pytest.mark.asyncio(loop_scope="session")

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"


@pytest.fixture
def full_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have Envoy take any memory in use for nearly all that it has."""
    fill = configuration._fill
    threshold = "{name: envoy.resource_monitors.fixed_heap, threshold: {value: "
    at = f"stop_accepting_requests\n      triggers: [{threshold}"

    def filled(template: str, *values: Any) -> str:
        text = fill(template, *values)
        assert template != "envoy.yaml" or at in text
        return text.replace(f"{at}0.95", f"{at}0.000001")

    monkeypatch.setattr(configuration, "_fill", filled)
    yield
    monkeypatch.undo()


@pytest.mark.usefixtures("full_memory")
async def test_a_full_memory_is_503_with_a_time_to_come_back(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway
) -> None:
    edge = another_edge()
    async with edge.client() as client:
        deadline = asyncio.get_running_loop().time() + 5
        while (response := await client.post("/v1/embeddings", content=b"{}")).status_code == 200:
            assert asyncio.get_running_loop().time() < deadline
        gateway.calls.clear()
        for path, kind in (
            ("/v1/embeddings", "server_error"),
            ("/v1/messages", "overloaded_error"),
        ):
            response = await client.post(path, content=b"{}")
            assert response.status_code == 503
            assert response.json()["error"]["type"] == kind
            assert response.headers["retry-after"] == "1"
    assert gateway.calls == []


async def test_more_requests_than_the_gateways_bear_are_503_at_once(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway
) -> None:
    edge = another_edge(max_requests=2)
    release = asyncio.Event()

    async def slow(_: object, __: object) -> HttpBody:
        await release.wait()
        return HttpBody(content_type="application/json", data=b"{}")

    gateway.scripts["Embeddings"] = slow
    async with edge.client() as client:
        waiting = [
            asyncio.create_task(client.post("/v1/embeddings", content=b"{}")) for _ in range(2)
        ]
        while len(gateway.calls) < 2:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/embeddings", content=b"{}")
        assert_vendor_shaped(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        release.set()
        assert {(await answer).status_code for answer in waiting} == {200}


async def test_a_thousand_slow_connections_leave_others_alone(edge: Edge) -> None:
    trust = edge.trust
    slow: list[asyncio.StreamWriter] = []

    async def dawdle() -> None:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", edge.port, ssl=trust, server_hostname="localhost"
        )
        writer.write(POST)
        slow.append(writer)

    try:
        for _ in range(20):
            await asyncio.gather(*(dawdle() for _ in range(50)))
        async with edge.client() as client:
            for _ in range(5):
                assert (await client.get("/health", timeout=2)).status_code == 200
    finally:
        for writer in slow:
            writer.close()
        for writer in slow:
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()


async def test_bodies_on_their_way_take_no_place_at_a_gateway(
    another_edge: Callable[..., Edge],
) -> None:
    edge = another_edge(max_requests=2)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", edge.port, ssl=edge.trust, server_hostname="localhost"
            )
            stack.callback(writer.close)
            writer.write(POST)
            await writer.drain()
        await asyncio.sleep(0.2)
        async with edge.client() as client:
            assert (await client.get("/health", timeout=2)).status_code == 200


async def test_a_body_that_never_ends_is_given_up(another_edge: Callable[..., Edge]) -> None:
    edge = another_edge(upload_timeout_s=0.5)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.port, ssl=edge.trust, server_hostname="localhost"
    )
    writer.write(POST)
    async with asyncio.timeout(5):
        answer = await reader.read(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"did not arrive in time" in answer
    writer.close()


async def test_a_connection_without_requests_is_closed(another_edge: Callable[..., Edge]) -> None:
    edge = another_edge(idle_timeout_s=0.5)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", edge.port, ssl=edge.trust, server_hostname="localhost"
    )
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()


async def test_a_handshake_that_never_ends_is_given_up(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(b"\x16\x03\x01\x02\x00")
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(20):
            assert await reader.read() == b""
    writer.close()


async def test_a_client_that_does_not_read_is_given_up_and_holds_little(
    another_edge: Callable[..., Edge],
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent, ended = 0, asyncio.Event()

    async def endless(_: object, __: object) -> AsyncIterator[HttpBody]:
        nonlocal sent
        try:
            while True:
                sent += 1
                yield HttpBody(content_type="text/event-stream", data=b"x" * 65_536)
        finally:
            ended.set()

    gateway.scripts["ChatCompletions"] = endless
    monkeypatch.setattr(configuration, "SILENCE_MARGIN_S", 0)
    edge = another_edge(request_timeout_ms=1_000, stream_idle_timeout_ms=1_000)
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    plain.connect(("127.0.0.1", edge.port))
    with edge.trust.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(POST[:-1].replace(b"length: 9", b"length: 2") + b"{}")
        async with asyncio.timeout(10):
            await ended.wait()
    assert 1 < sent * 65_536 < 16 * 1024 * 1024
