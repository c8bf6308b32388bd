"""Errors in the shape that the vendors' SDKs expect, the gateway's and Envoy's own."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2

from services.cli import edge as configuration
from tests.integration.edge.conftest import Edge, ScriptedGateway
from tests.integration.edge.replies import assert_vendor_shaped
from weaver.gateway.v1 import gateway_service_pb2 as messages
from weaver.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
Code = grpc.StatusCode


def openai_error(message: str = "No.", code: str = "x") -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code}}


async def abort(
    context: Any,
    code: grpc.StatusCode,
    body: object,
    *extra: tuple[str, str | bytes],
) -> None:
    details = status_pb2.Status(code=code.value[0], message="internal words")
    details.details.add().Pack(error_details_pb2.ErrorInfo(reason="R", domain="weaver"))
    metadata = (
        ("weaver-error-body", json.dumps(body)),
        ("grpc-status-details-bin", details.SerializeToString()),
        *extra,
    )
    await context.abort(code, "internal words", metadata)


def aborting(code: grpc.StatusCode, body: object, *extra: tuple[str, str | bytes]) -> Any:
    async def answer(_: object, context: object) -> None:
        await abort(context, code, body, *extra)

    return answer


def aborting_stream(code: grpc.StatusCode, body: object, *extra: tuple[str, str | bytes]) -> Any:
    async def answer(_: object, context: object) -> AsyncIterator[None]:
        await abort(context, code, body, *extra)
        yield

    return answer


@pytest.mark.parametrize(
    ("grpc_code", "override", "status"),
    [
        (Code.UNAUTHENTICATED, None, 401),
        (Code.PERMISSION_DENIED, None, 403),
        (Code.NOT_FOUND, None, 404),
        (Code.INVALID_ARGUMENT, None, 400),
        (Code.INVALID_ARGUMENT, "413", 413),
        (Code.RESOURCE_EXHAUSTED, None, 429),
        (Code.UNAVAILABLE, "502", 502),
        (Code.UNAVAILABLE, None, 503),
        (Code.DEADLINE_EXCEEDED, None, 504),
        (Code.INTERNAL, None, 500),
        (Code.UNIMPLEMENTED, None, 501),
    ],
)
@pytest.mark.parametrize("method", ["ChatCompletions", "Embeddings"])
async def test_the_gateways_error_body_is_the_answer(  # noqa: PLR0913, PLR0917 - a table of cases
    client: httpx.AsyncClient,
    gateway: ScriptedGateway,
    method: str,
    grpc_code: grpc.StatusCode,
    override: str | None,
    status: int,
) -> None:
    body = openai_error("Grüße \u2028 " + "ä" * 300)
    extra = [("weaver-http-status", override)] if override else []
    make = aborting_stream if method == "ChatCompletions" else aborting
    gateway.scripts[method] = make(grpc_code, body, *extra)
    path = CHAT if method == "ChatCompletions" else "/v1/embeddings"
    response = await client.post(path, content=b"{}")
    assert_vendor_shaped(response, status, "x")
    assert response.json() == body
    leaked = [key for key in response.headers if key.startswith(("grpc-", "weaver-"))]
    assert leaked == []
    assert "internal words" not in str(response.headers)


async def test_retry_after_and_limits_pass_with_a_429(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    extra = (("retry-after", "7"), ("x-ratelimit-remaining-requests", "0"))
    gateway.scripts["ChatCompletions"] = aborting_stream(
        Code.RESOURCE_EXHAUSTED, openai_error(), *extra
    )
    response = await client.post(CHAT, content=b"{}")
    assert_vendor_shaped(response, 429, "x")
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


async def test_an_error_body_of_four_kilobytes_passes(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    body = openai_error("x" * 4000)
    gateway.scripts["ChatCompletions"] = aborting_stream(Code.INVALID_ARGUMENT, body)
    assert (await client.post(CHAT, content=b"{}")).json() == body


async def test_health_that_is_not_ready_is_503_with_its_json(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    body = {"status": "unavailable", "dependencies": {"audit": "down"}}
    gateway.scripts["Health"] = aborting(Code.UNAVAILABLE, body)
    response = await client.get("/health")
    assert (response.status_code, response.json()) == (503, body)


async def test_an_error_without_a_body_of_its_own_tells_nothing(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    async def answer(_: object, context: Any) -> None:
        await context.abort(Code.INTERNAL, "a secret of the gateway")

    gateway.scripts["Embeddings"] = gateway.scripts["CountTokens"] = answer
    response = await client.post("/v1/embeddings", content=b"{}")
    assert_vendor_shaped(response, 500, "internal")
    assert "secret" not in response.text + str(response.headers)
    response = await client.post("/v1/messages/count_tokens?beta=true", content=b"{}")
    assert (response.status_code, response.json()["error"]["type"]) == (500, "api_error")
    assert "secret" not in response.text + str(response.headers)


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.RESOURCE_EXHAUSTED])
async def test_a_gateway_whose_queue_is_full_is_503_and_worth_another_try(
    client: httpx.AsyncClient, edge: Edge, gateway: ScriptedGateway, code: grpc.StatusCode
) -> None:
    async def answer(_: object, context: Any) -> None:
        await context.abort(code, "Too many pending requests for this server")

    for method in ("Embeddings", "CountTokens", "Generate"):
        gateway.scripts[method] = answer
    response = await client.post("/v1/embeddings", content=b"{}")
    assert_vendor_shaped(response, 503, "overloaded")
    assert response.headers["retry-after"] == "1"
    response = await client.post("/v1/messages/count_tokens", content=b"{}")
    assert (response.status_code, response.json()["error"]["type"]) == (503, "overloaded_error")
    async with edge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway_grpc.GatewayServiceStub(channel).Generate(messages.GenerateRequest())
    assert caught.value.code() == (Code.UNAVAILABLE if code is Code.CANCELLED else code)


async def test_native_grpc_errors_stay_grpc(edge: Edge, gateway: ScriptedGateway) -> None:
    gateway.scripts["Generate"] = aborting(Code.UNAUTHENTICATED, openai_error())
    async with edge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway_grpc.GatewayServiceStub(channel).Generate(messages.GenerateRequest())
    assert caught.value.code() == Code.UNAUTHENTICATED
    assert caught.value.details() == "internal words"
    trailing = dict(caught.value.trailing_metadata() or ())
    assert "grpc-status-details-bin" in trailing


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v2/models", "/v1/models/../../x", "/admin"]
)
async def test_an_unknown_path_is_404(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str
) -> None:
    assert_vendor_shaped(await client.get(path), 404, "not_found")
    assert gateway.calls == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", "/v1/chat/completions?x=1", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/v1/models/stub-model", "GET, HEAD"),
        ("POST", "/v1/audit/records", "GET, HEAD"),
        ("GET", "/v1/responses", "POST"),
        ("DELETE", "/v1/admin/api_keys", "GET, HEAD, POST"),
        ("PATCH", "/v1/admin/api_keys/7", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_names_the_right_one(
    client: httpx.AsyncClient, gateway: ScriptedGateway, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert_vendor_shaped(response, 405, "invalid_request")
    assert response.headers["allow"] == allowed
    assert gateway.calls == []


async def test_a_body_over_the_limit_is_413(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.post(CHAT, content=b"x" * ((16 << 20) + 1))
    assert_vendor_shaped(response, 413, "request_too_large")
    assert gateway.calls == []


async def test_a_body_over_the_limit_is_413_before_it_arrived_whole(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(19):
            yield b"x" * (1 << 20)

    async with edge.client("h1") as client:
        response = await client.post(CHAT, content=chunks())
    assert_vendor_shaped(response, 413, "request_too_large")
    assert gateway.calls == []


async def test_headers_over_the_limit_are_431(edge: Edge, gateway: ScriptedGateway) -> None:
    async with edge.client("h1") as client:
        response = await client.get("/health", headers={"x-long": "x" * 40_000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "request_too_large")
    assert gateway.calls == []


async def test_headers_over_the_limit_reset_an_h2_stream(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    async with edge.client("h2") as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/health", headers={"x-long": "x" * 40_000})
    assert gateway.calls == []


@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_a_gateway_that_is_not_there_is_503(
    another_edge: Callable[..., Edge], version: str
) -> None:
    edge = another_edge(edge_listen="unix:/tmp/nobody-listens-here")
    async with edge.client(version) as client:
        response = await client.post(CHAT, content=b"{}")
        assert_vendor_shaped(response, 503, "overloaded")
        assert response.headers["retry-after"] == "1"
    async with edge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway_grpc.GatewayServiceStub(channel).Generate(messages.GenerateRequest())
    assert caught.value.code() == Code.UNAVAILABLE


async def test_paths_of_anthropic_get_anthropics_shape(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.post("/v1/messages/nowhere", content=b"{}")
    assert response.status_code == 404
    body = response.json()
    assert body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": body["error"]["message"]},
        "request_id": response.headers["request-id"],
    }


@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_a_unary_call_past_its_time_is_504(
    another_edge: Callable[..., Edge], gateway: ScriptedGateway, version: str
) -> None:
    async def never(_: object, __: object) -> None:
        await asyncio.sleep(60)

    gateway.scripts["Embeddings"] = never
    edge = another_edge(request_timeout_ms=100)
    async with edge.client(version) as client:
        response = await client.post("/v1/embeddings", content=b"{}")
    assert_vendor_shaped(response, 504, "deadline_exceeded")


@pytest.mark.parametrize("version", ["h1", "h2"])
async def test_a_silent_stream_ends_after_the_idle_time_and_not_the_request_timeout(
    another_edge: Callable[..., Edge],
    gateway: ScriptedGateway,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    async def silent(_: object, __: object) -> AsyncIterator[None]:
        await asyncio.sleep(60)
        yield

    gateway.scripts["ChatCompletions"] = silent
    monkeypatch.setattr(configuration, "SILENCE_MARGIN_S", 0)
    edge = another_edge(request_timeout_ms=100, stream_idle_timeout_ms=3_000)
    async with edge.client(version) as client:
        started = asyncio.get_running_loop().time()
        response = await client.post(CHAT, content=b"{}")
    assert_vendor_shaped(response, 504, "deadline_exceeded")
    assert asyncio.get_running_loop().time() - started > 2.5
