"""What of a request reaches the gateway, and what does not."""

import asyncio
import contextlib
import json
import re
from typing import Any, cast

import grpc
import httpx
import pytest
from google.api.httpbody_pb2 import HttpBody
from hpack import Decoder
from hyperframe.frame import HeadersFrame

from tests.integration.edge.conftest import Edge, ScriptedGateway
from tests.integration.edge.frames import GET, Connection
from weaver.gateway.v1 import gateway_service_pb2 as messages
from weaver.gateway.v1 import gateway_service_pb2_grpc as gateway_grpc

pytestmark = pytest.mark.asyncio(loop_scope="session")

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
CHAT = "/v1/chat/completions"


async def test_a_body_reaches_the_gateway_byte_for_byte(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    body = b'{ "z":1e5, "a": 1.0,\n"unknown":{"\\u00e9":null}, "n":12345678901234567890}'
    response = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert gateway.last.request.data == body
    assert gateway.last.request.content_type == "application/json"


@pytest.mark.parametrize(
    ("http_method", "path", "method"),
    [
        ("GET", "/health", "Health"),
        ("GET", "/health/live", "Health"),
        ("GET", "/health/ready", "Health"),
        ("GET", "/v1/health", "GetHealthDetails"),
        ("GET", "/v1/whoami", "WhoAmI"),
        ("GET", "/v1/models", "ListModels"),
        ("GET", "/v1/models/stub-model", "GetModel"),
        ("POST", CHAT, "ChatCompletions"),
        ("POST", "/v1/embeddings", "Embeddings"),
        ("POST", "/v1/responses", "Responses"),
        ("POST", "/v1/messages?beta=true", "Messages"),
        ("POST", "/v1/messages/count_tokens", "CountTokens"),
        ("POST", "/v1/admin/api_keys", "CreateApiKey"),
        ("GET", "/v1/admin/api_keys", "ListApiKeys"),
        ("GET", "/v1/admin/api_keys/7", "GetApiKey"),
        ("POST", "/v1/admin/api_keys/7/update", "UpdateApiKey"),
        ("POST", "/v1/admin/api_keys/7/disable", "DisableApiKey"),
        ("POST", "/v1/admin/api_keys/7/enable", "EnableApiKey"),
        ("POST", "/v1/admin/api_keys/7/rotate", "RotateApiKey"),
        ("GET", "/v1/audit/records?type=intent&type=outcome&page_size=2", "ListRecords"),
        ("GET", "/v1/audit/records/7", "GetRecord"),
        ("GET", "/v1/audit/records/7/receipt", "GetReceipt"),
        ("GET", "/v1/audit/checkpoint", "GetCheckpoint"),
        ("GET", "/v1/audit/consistency?first_size=1", "GetConsistencyProof"),
        ("GET", "/v1/audit/keys", "ListKeys"),
        ("GET", "/v1/audit/tile/0/x001/067", "GetTile"),
    ],
)
async def test_every_public_path_reaches_its_method(
    client: httpx.AsyncClient, gateway: ScriptedGateway, http_method: str, path: str, method: str
) -> None:
    response = await client.request(
        http_method, path, content=b"{}" if http_method == "POST" else None
    )
    assert (response.status_code, gateway.last.method) == (200, method)


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/v1/whoami", 401), (CHAT, 405), ("/nowhere", 404)]
)
async def test_head_says_what_get_would_without_its_body(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str, status: int
) -> None:
    async def refuse(_: object, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")

    gateway.scripts["WhoAmI"] = refuse
    got = await client.get(path)

    for _ in range(2):  # the connection serves again
        response = await client.head(path)
        assert (response.status_code, response.content) == (status, b"")
        for name in ("content-type", "content-length", "allow", "www-authenticate"):
            assert response.headers.get(name) == got.headers.get(name)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/v1/models/meta-llama%2FLlama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/v1/models/meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("/v1/models/ft:gpt-4o:acme::7p4", "ft:gpt-4o:acme::7p4"),
        ("/v1/models/a%20b", "a b"),
    ],
)
async def test_model_names_with_odd_characters_arrive_as_they_are(
    client: httpx.AsyncClient, gateway: ScriptedGateway, path: str, model: str
) -> None:
    assert (await client.get(path)).status_code == 200
    assert gateway.last.request.id == model


async def test_unknown_query_parameters_are_ignored(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.post(f"{CHAT}?beta=true&x=%22", content=b"{}")
    assert response.status_code == 200


async def test_the_request_id_is_ours_and_comes_back_under_both_names(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.get("/health", headers={"x-request-id": "chosen-outside"})
    identifier = response.headers["x-request-id"]
    assert UUID.fullmatch(identifier)
    assert response.headers["request-id"] == identifier
    assert gateway.last.metadata["x-request-id"] == identifier
    assert gateway.last.metadata["x-client-request-id"] == "chosen-outside"


async def test_the_clients_own_header_for_its_id_is_kept(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    await client.get("/health", headers={"x-client-request-id": "mine", "x-request-id": "other"})
    assert gateway.last.metadata["x-client-request-id"] == "mine"


async def test_no_client_id_is_made_up(client: httpx.AsyncClient, gateway: ScriptedGateway) -> None:
    await client.get("/health")
    assert "x-client-request-id" not in gateway.last.metadata


async def test_identity_from_outside_is_stripped(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    outside = {
        "x-weaver-subject": "root",
        "X-Weaver-Client-Address": "10.0.0.1",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "evil.example",
        "x-forwarded-client-cert": "URI=spiffe://weaver/gateway",
        "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "true-client-ip": "10.0.0.1",
        "x-envoy-original-path": "/v1/messages",
        "x-envoy-internal": "true",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-original-url": "/v1/admin",
    }
    response = await client.get("/health", headers=outside)
    assert response.status_code == 200
    seen = gateway.last.metadata
    assert not [key for key, value in seen.items() if value in outside.values()]
    assert seen["x-weaver-client-address"] == "127.0.0.1"


async def test_who_wants_another_protocol_is_answered_in_this_one(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    async with edge.client("h1") as client:
        got = await client.get("/health", headers=upgrade)
        posted = await client.post(CHAT, content=b"{}", headers=upgrade)
    assert (got.status_code, posted.status_code) == (200, 200)
    assert [call.method for call in gateway.calls] == ["Health", "ChatCompletions"]


async def test_header_names_with_underscores_are_dropped(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    response = await client.get("/health", headers={"x_weaver_subject": "root"})
    assert response.status_code == 200
    assert "x_weaver_subject" not in gateway.last.metadata


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-foo-bin", "!!!"), ("grpc-timeout", "xx"), ("grpc-timeout", "1n"), ("Grpc-Encoding", "x")],
)
async def test_headers_of_grpc_itself_do_not_pass_with_json(
    client: httpx.AsyncClient, gateway: ScriptedGateway, name: str, value: str
) -> None:
    headers = {name: value, "content-type": "application/json", "x-kept-binary": "1"}
    response = await client.post("/v1/embeddings", content=b"{}", headers=headers)
    assert (response.status_code, response.content) == (200, b"{}")
    assert name.lower() not in gateway.last.metadata
    assert gateway.last.metadata["x-kept-binary"] == "1"


async def test_native_grpc_keeps_its_deadline_and_binary_metadata(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    left: list[float] = []

    async def generate(_: object, context: Any) -> messages.GenerateResponse:
        left.append(context.time_remaining())
        return messages.GenerateResponse()

    gateway.scripts["Generate"] = generate
    async with edge.channel() as channel:
        stub = gateway_grpc.GatewayServiceStub(channel)
        await stub.Generate(messages.GenerateRequest(), timeout=7, metadata=(("x-a-bin", b"\xff"),))
    assert 0 < left[0] <= 7
    assert "x-a-bin" in gateway.last.metadata


async def test_credentials_trace_and_idempotency_headers_pass(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    headers = {
        "authorization": "Bearer key",
        "x-api-key": "other",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "idempotency-key": "k",
        "anthropic-version": "2023-06-01",
    }
    await client.get("/v1/whoami", headers=headers)
    assert headers.items() <= gateway.last.metadata.items()


async def test_betas_in_several_headers_arrive_as_one_list(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    for betas in (["a-1,b-2", "c-3"], ["a-1,b-2,c-3"]):
        headers = [("anthropic-beta", value) for value in betas]
        await client.post("/v1/messages", json={}, headers=headers)
        assert gateway.last.metadata["anthropic-beta"] == "a-1,b-2,c-3"


async def test_initial_metadata_become_response_headers(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    async def answer(_: object, context: grpc.aio.ServicerContext) -> HttpBody:  # type: ignore[type-arg]
        await context.send_initial_metadata((("ratelimit", '"default";r=9;t=1'),))
        return HttpBody(content_type="application/json", data=b'{"a":1}')

    gateway.scripts["ListModels"] = answer
    response = await client.get("/v1/models")
    assert response.headers["ratelimit"] == '"default";r=9;t=1'
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"a": 1}


@pytest.mark.parametrize("ends_with", [(), (("x-weaver-record", "a/b 7"),)])
async def test_nothing_of_grpc_stands_behind_a_body_over_h2(
    edge: Edge, gateway: ScriptedGateway, ends_with: tuple[tuple[str, str], ...]
) -> None:
    async def answer(_: object, context: grpc.aio.ServicerContext) -> HttpBody:  # type: ignore[type-arg]
        context.set_trailing_metadata(ends_with)
        return HttpBody(content_type="application/json", data=b"{}")

    gateway.scripts["ListModels"] = answer
    head = (*GET[:3], (":path", "/v1/models"))

    def blocks() -> list[dict[bytes, bytes]]:
        seen, decoder = [], Decoder()
        with contextlib.closing(Connection(edge)) as h2:
            h2.send(h2.headers(1, head))
            for frame in h2.frames():
                if isinstance(frame, HeadersFrame):
                    seen.append(dict(decoder.decode(bytes(frame.data), raw=True)))
                if frame.stream_id == 1 and "END_STREAM" in frame.flags:
                    break
        return seen

    first, *trailers = await asyncio.to_thread(blocks)
    assert first[b":status"] == b"200"
    expected = [{key.encode(): value.encode() for key, value in ends_with}] if ends_with else []
    assert trailers == expected


async def test_no_header_tells_of_the_proxy(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    for path in ("/health", "/nowhere"):
        headers = (await client.get(path)).headers
        told = [key for key in headers if key.startswith(("x-envoy", "server", "via", "grpc-"))]
        assert told == []
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers["x-content-type-options"] == "nosniff"


async def test_a_body_of_12_megabytes_passes(
    client: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    body = json.dumps({"messages": "x" * (12 << 20)}).encode()
    response = await client.post(CHAT, content=body)
    assert response.status_code == 200
    assert gateway.last.request.data == body


async def test_many_requests_share_one_h2_connection(edge: Edge, gateway: ScriptedGateway) -> None:
    async with edge.client("h2") as client:
        answers = await asyncio.gather(*(client.post(CHAT, content=b"{}") for _ in range(300)))
    assert {answer.status_code for answer in answers} == {200}


async def test_native_grpc_is_served_on_the_same_listener(
    edge: Edge, gateway: ScriptedGateway
) -> None:
    async def generate(request: messages.GenerateRequest, _: object) -> messages.GenerateResponse:
        return messages.GenerateResponse(text=request.model)

    async def stream(request: object, _: object):  # type: ignore[no-untyped-def]  # noqa: ANN202
        for text in ("a", "b"):
            yield messages.GenerateStreamResponse(text_delta=text)

    gateway.scripts |= {"Generate": generate, "GenerateStream": stream}
    async with edge.channel() as channel:
        stub = gateway_grpc.GatewayServiceStub(channel)
        assert (await stub.Generate(messages.GenerateRequest(model="m"))).text == "m"
        request = messages.GenerateStreamRequest()
        assert [step.text_delta async for step in stub.GenerateStream(request)] == ["a", "b"]
        assert gateway.last.metadata["x-request-id"]
        assert "x-envoy-original-path" not in gateway.last.metadata


@pytest.mark.parametrize(
    "path",
    [
        "/weaver.audit.v1.AuditService/AppendRecords",
        "/weaver.model.v1.ModelService/Generate",
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/weaver.gateway.v1.GatewayService/Unheard",
        "/v1/chat/completions",
    ],
)
async def test_no_other_grpc_method_is_reached(
    edge: Edge, gateway: ScriptedGateway, path: str
) -> None:
    async with edge.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cast("Any", channel.unary_unary(path))(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert not (caught.value.details() or "").startswith("{")
    assert gateway.calls == []


@pytest.mark.parametrize("content_type", ["application/json", "application/grpc-web", "text/plain"])
async def test_a_grpc_path_is_not_served_as_json(
    client: httpx.AsyncClient, gateway: ScriptedGateway, content_type: str
) -> None:
    response = await client.post(
        "/weaver.gateway.v1.GatewayService/Generate",
        content=b"{}",
        headers={"content-type": content_type},
    )
    assert response.status_code == 404
    assert gateway.calls == []
