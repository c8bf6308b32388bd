"""Envoy asks the limiter about each source address, by its own protocol."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.common.server import Listener, ServerHandle, start_server
from services.common.settings import load
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build
from tests.fakes.valkey import Valkey
from tests.integration.edge.certificates import Authority
from tests.integration.edge.conftest import Edge, ScriptedGateway

StartEdge = Callable[..., Edge]


@pytest.fixture
def certificates(authority: Authority) -> Path:
    authority.issue("envoy", "spiffe://weaver/envoy")
    authority.issue("ratelimit", "ratelimit", "spiffe://weaver/ratelimit")
    return authority.directory


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def limiter(certificates: Path, valkey: Valkey) -> AsyncIterator[ServerHandle]:
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        tls_dir=certificates,
        audit_address="",
        address_rps=0.5,
        address_burst=3,
        store_timeout_ms=1000,
    )
    async with AsyncExitStack() as stack:
        component = await build(settings, stack)
        yield await start_server(
            component,
            settings,
            stack,
            [Listener("127.0.0.1:0")],
            allowed_clients=settings.allowed_clients,
        )


async def ask(edge: Edge, path: str, count: int, **options: Any) -> list[httpx.Response]:
    async with edge.client() as client:
        return [await client.post(path, json={}, **options) for _ in range(count)]


@pytest.mark.asyncio(loop_scope="session")
async def test_a_source_address_is_limited_before_the_gateway_sees_anything(
    limiter: ServerHandle, another_edge: StartEdge, gateway: ScriptedGateway
) -> None:
    edge = another_edge(address_rps=0.5, ratelimit_address=limiter.addresses[0])
    responses = await ask(edge, "/v1/chat/completions", 5)
    assert [response.status_code for response in responses] == [200, 200, 200, 429, 429]
    assert len(gateway.calls) == 3
    assert "ratelimit" not in responses[0].headers
    refused = responses[3]
    assert refused.headers["retry-after"] in {"1", "2"}
    assert refused.headers["ratelimit-policy"] == '"per_address";q=3;w=6'
    assert refused.headers["ratelimit"].startswith('"per_address";r=0;t=')
    assert refused.json()["error"]["type"] == "rate_limit_error"
    anthropic = (await ask(edge, "/v1/messages", 1))[0]
    assert (anthropic.status_code, anthropic.json()["type"]) == (429, "error")
    assert anthropic.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.asyncio(loop_scope="session")
async def test_each_address_has_a_bucket_of_its_own(
    limiter: ServerHandle, another_edge: StartEdge
) -> None:
    edge = another_edge(address_rps=0.5, ratelimit_address=limiter.addresses[0], trusted_hops=1)

    async def statuses(address: str) -> list[int]:
        headers = {"x-forwarded-for": address}
        answers = await ask(edge, "/v1/chat/completions", 4, headers=headers)
        return [answer.status_code for answer in answers]

    assert await statuses("192.0.2.1") == [200, 200, 200, 429]
    assert await statuses("192.0.2.2") == [200, 200, 200, 429]
    assert await statuses("2001:db8::1") == [200, 200, 200, 429]
    # All addresses of a /64 are one customer.
    assert await statuses("2001:db8::2") == [429] * 4
    assert await statuses("2001:db8:0:1::1") == [200, 200, 200, 429]


@pytest.mark.asyncio(loop_scope="session")
async def test_without_the_limiter_requests_pass_and_are_limited_behind(
    limiter: ServerHandle, another_edge: StartEdge
) -> None:
    edge = another_edge(address_rps=0.5, ratelimit_address=limiter.addresses[0])
    await ask(edge, "/v1/chat/completions", 1)
    await limiter.drain(0)
    responses = await ask(edge, "/v1/chat/completions", 6)
    assert {response.status_code for response in responses} == {200}


@pytest.mark.asyncio(loop_scope="session")
async def test_a_client_with_another_certificate_is_not_answered(
    limiter: ServerHandle, another_edge: StartEdge, certificates: Path, authority: Authority
) -> None:
    authority.issue("envoy", "spiffe://weaver/model")
    edge = another_edge(address_rps=0.5, ratelimit_address=limiter.addresses[0])
    responses = await ask(edge, "/v1/chat/completions", 6)
    assert {response.status_code for response in responses} == {200}
    assert "ratelimit.addresses.error: 6" in edge.admin("/stats?filter=ratelimit")


@pytest.mark.asyncio(loop_scope="session")
async def test_health_is_not_limited_and_unknown_paths_lead_nowhere(
    limiter: ServerHandle, another_edge: StartEdge, gateway: ScriptedGateway
) -> None:
    edge = another_edge(address_rps=0.5, ratelimit_address=limiter.addresses[0])
    async with edge.client() as client:
        health = [(await client.get("/health")).status_code for _ in range(8)]
        assert health == [200] * 8
        gateway.calls.clear()
        unknown = [(await client.get("/v1/nothing")).status_code for _ in range(4)]
    assert unknown == [404, 404, 404, 429]
    assert gateway.calls == []
