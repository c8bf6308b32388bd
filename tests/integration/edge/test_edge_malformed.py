"""Requests that cannot be read: whoever finds it, the caller learns what is wrong with them."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, RstStreamFrame
from prometheus_client import CollectorRegistry

from services.common.component import Component
from services.common.health import Health
from services.common.server import Kind, Listener, start_server
from services.common.settings import CommonSettings
from tests.integration.edge.conftest import Edge, ScriptedGateway
from tests.integration.edge.frames import GET, Connection
from tests.integration.edge.replies import assert_vendor_shaped

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture(loop_scope="session")
async def served(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway, tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """Return a client of a gateway that is served as the suite serves it."""
    async with AsyncExitStack() as stack:
        component = Component("gateway", (), gateway.register, Health(), CollectorRegistry())
        listener = Listener(f"unix:{tmp_path}/gw", Kind.EDGE)
        await start_server(component, CommonSettings(state_dir=tmp_path), stack, [listener])
        edge = another_edge(edge_listen=listener.address)
        yield await stack.enter_async_context(edge.client())


@pytest.mark.parametrize(
    "path", ["/v1/audit/records/seven", "/v1/audit/records?page_size=many", "/v1/audit/records/-1"]
)
async def test_a_parameter_of_the_wrong_kind_is_400(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str
) -> None:
    assert_vendor_shaped(await client.get(path), 400, "invalid_request")
    assert gateway.calls == []


async def test_a_path_that_envoy_itself_refuses_is_400_with_a_whole_sentence(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.get("/v1/models/%00")
    assert response.status_code == 400
    assert response.json()["error"]["message"].strip() == "The request is malformed."
    assert gateway.calls == []


@pytest.mark.parametrize("path", ["/v1/models/%ff", "/v1/audit/records?request_id=%ff"])
async def test_a_text_that_is_not_utf8_is_400(served: httpx.AsyncClient, path: str) -> None:
    response = await served.get(path)
    assert_vendor_shaped(response, 400, "invalid_request")
    assert "cannot be decoded" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "kind"), [(CHAT, "openai"), ("/v1/messages?beta=true", "anthropic")]
)
async def test_a_compressed_body_is_415(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str, kind: str
) -> None:
    headers = {"content-encoding": "gzip"}
    response = await client.post(path, content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 415
    assert "content-encoding is not accepted" in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert (response.json().get("type") == "error") == (kind == "anthropic")
    assert gateway.calls == []


async def test_a_compressed_body_over_h2_is_read_before_it_is_refused(edge: Edge) -> None:
    head = ((":method", "POST"), *GET[1:3], (":path", CHAT), ("content-encoding", "gzip"))
    body, ping = DataFrame(1, b"gzip"), PingFrame(0)
    body.flags.add("END_STREAM")
    seen = []
    with contextlib.closing(Connection(edge)) as h2:
        h2.send(h2.headers(1, (*head, ("content-length", "4")), flags=["END_HEADERS"]))
        await asyncio.sleep(0.1)  # Envoy has the head by now, and would have answered it.
        h2.send(body.serialize() + ping.serialize())
        for frame in h2.frames():
            seen.append((type(frame), frame.stream_id, "END_STREAM" in frame.flags))
            if {(PingFrame, 0, False), (DataFrame, 1, True)} <= {*seen}:
                break
    assert (HeadersFrame, 1, False) in seen
    assert (RstStreamFrame, 1, False) not in seen


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto"])
async def test_grpc_at_a_path_of_json_is_415(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str, content_type: str
) -> None:
    response = await client.post(path, content=b"{}", headers={"content-type": content_type})
    assert_vendor_shaped(response, 415, "invalid_request")
    assert gateway.calls == []
