"""Pages of other origins: what a browser would let them do."""

from collections.abc import AsyncIterator, Callable

import grpc
import httpx
import pytest
import pytest_asyncio

from tests.integration.edge.conftest import Edge, ScriptedGateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORIGIN = "https://app.example"
CHAT = "/v1/chat/completions"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest_asyncio.fixture(loop_scope="session")
async def open_door(another_edge: Callable[..., Edge]) -> AsyncIterator[httpx.AsyncClient]:
    edge = another_edge(cors_origins=(ORIGIN,), request_max_bytes=1024)
    async with edge.client(headers={"origin": ORIGIN}) as client:
        yield client


def allowed(response: httpx.Response) -> str | None:
    origin: str | None = response.headers.get("access-control-allow-origin")
    return origin


async def test_no_page_may_call_unless_a_setting_says_so(client: httpx.AsyncClient) -> None:
    preflight = await client.options(CHAT, headers={"origin": ORIGIN, **PREFLIGHT})
    assert (preflight.status_code, allowed(preflight)) == (405, None)
    assert allowed(await client.get("/v1/models", headers={"origin": ORIGIN})) is None


async def test_a_page_of_a_named_origin_may_call_and_read_the_headers(
    open_door: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    preflight = await open_door.options(CHAT, headers=PREFLIGHT)
    assert (preflight.status_code, allowed(preflight)) == (200, ORIGIN)
    may_send = preflight.headers["access-control-allow-headers"].split(", ")
    assert {"authorization", "x-api-key", "x-stainless-os", "anthropic-version"} <= {*may_send}
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-max-age"] == "600"
    assert gateway.calls == []
    answer = await open_door.post(CHAT, content=b"{}")
    assert (answer.status_code, allowed(answer)) == (200, ORIGIN)
    may_read = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-ratelimit-reset-requests"} <= {*may_read}
    assert "access-control-allow-credentials" not in answer.headers
    assert gateway.last.metadata["origin"] == ORIGIN


async def test_errors_can_be_read_too_whoever_makes_them(
    open_door: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    async def refuse(_: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")

    gateway.scripts["WhoAmI"] = refuse
    for response, status in (
        (await open_door.get("/v1/whoami"), 401),
        (await open_door.get("/v1/nowhere"), 404),
        (await open_door.post("/v1/embeddings", content=b"x" * 100_000), 413),
        (await open_door.post(CHAT, content=b"x", headers={"content-encoding": "gzip"}), 415),
    ):
        assert (response.status_code, allowed(response)) == (status, ORIGIN), response.text


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "https://app.example.evil", "http://app.example", "null"]
)
async def test_a_page_of_another_origin_may_not(
    open_door: httpx.AsyncClient, gateway: ScriptedGateway, origin: str
) -> None:
    preflight = await open_door.options(CHAT, headers={"origin": origin, **PREFLIGHT})
    assert allowed(preflight) is None
    assert gateway.calls == []
    assert allowed(await open_door.get("/v1/models", headers={"origin": origin})) is None
    assert allowed(await open_door.get("/health", headers={"origin": ORIGIN})) is None
