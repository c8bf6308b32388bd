"""ModelService in process and over gRPC, against a real HTTP server that can misbehave."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, cast

import pytest

from services.common import channel
from services.common.component import Component
from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    WeaverError,
)
from services.common.local import LocalChannel
from services.common.server import Listener, start_server
from services.common.settings import load
from services.model.settings import ModelSettings
from services.model.wiring import build
from tests.fakes.upstream import Script, Upstream
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

ODD = b'{"temperature":1e0, "model":"m",\n"top_p":1.0,"messages":[{"content":"hi"}],"new":{}}'
STREAM = b'{"stream":true,"model":"m","messages":[{"role":"user","content":"one two three"}]}'
OPENAI = {"provider": "openai", "model_name": "m", "api_key": "sk-provider", "retries": 1}
Start = Callable[..., Awaitable["Service"]]


class Service:
    """The service, and a stub that reaches it."""

    def __init__(self, component: Component, stub: Any) -> None:
        self.component = component
        self._stub = stub

    async def generate(
        self,
        body: bytes = ODD,
        dialect: pb.Dialect.ValueType = pb.DIALECT_OPENAI_CHAT,
        *,
        model: str = "m",
        timeout_s: float = 5,
    ) -> pb.GenerateResponse:
        request = _request(body, dialect, model)
        answer = await channel.call(self._stub.Generate, request, timeout_s=timeout_s)
        assert isinstance(answer, pb.GenerateResponse)
        return answer

    def stream(self, body: bytes = STREAM) -> AsyncGenerator[pb.GenerateStreamResponse, None]:
        request = pb.GenerateStreamRequest(request=_request(body, pb.DIALECT_OPENAI_CHAT, "m"))
        steps = channel.stream(self._stub.GenerateStream, request)
        return cast("AsyncGenerator[pb.GenerateStreamResponse, None]", steps)

    async def models(self) -> list[pb.Model]:
        answer = await channel.call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s=5)
        return list(answer.models)


def _request(body: bytes, dialect: pb.Dialect.ValueType, model: str) -> pb.GenerateRequest:
    headers = [
        pb.Header(name="Authorization", value="Bearer client"),
        pb.Header(name="OpenAI-Project", value="p"),
    ]
    return pb.GenerateRequest(
        request_id="r-1", dialect=dialect, model=model, body=body, headers=headers
    )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def upstream(stack: AsyncExitStack) -> Upstream:
    return await stack.enter_async_context(Upstream())


@pytest.fixture(params=["local", "grpc"])
def start(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Start:
    async def start(**changes: object) -> Service:
        settings = load(ModelSettings, mtls_enabled=False, **changes)
        component = await build(settings, stack)
        if request.param == "local":
            local = LocalChannel("gateway")
            component.register(local)
            return Service(component, model_service_pb2_grpc.ModelServiceStub(cast("Any", local)))
        listeners = [Listener("127.0.0.1:0")]
        handle = await start_server(
            component, settings, stack, listeners, allowed_clients=("gateway",)
        )
        opened = channel.open_channel(handle.addresses[0], settings, own="gateway", peer="model")
        stack.push_async_callback(opened.close)
        return Service(component, model_service_pb2_grpc.ModelServiceStub(opened))

    return start


async def _eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server notes it in a list
            await asyncio.sleep(0.001)


async def _collect(
    steps: AsyncIterator[pb.GenerateStreamResponse],
) -> tuple[pb.StreamStart, list[pb.StreamChunk], pb.StreamEnd]:
    found = [step async for step in steps]
    assert found[0].WhichOneof("step") == "start"
    assert found[-1].WhichOneof("step") == "end"
    return found[0].start, [step.chunk for step in found[1:-1]], found[-1].end


async def test_bodies_pass_byte_for_byte(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)

    answer = await service.generate()

    (received,) = upstream.requests
    assert received.body == ODD
    assert received.path == "/v1/chat/completions"
    assert received.header("authorization") == "Bearer sk-provider"
    assert received.header("openai-project") == "p"
    assert received.header("x-request-id") == "r-1"
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "You said: hi"
    assert answer.content_type.startswith("application/json")
    assert {header.name for header in answer.headers} == {
        "x-upstream-request-id",
        "openai-processing-ms",
    }
    assert (answer.generation.usage.input_tokens, answer.generation.usage.output_tokens) == (1, 3)
    assert answer.generation.attempts[0].http_status == 200


async def test_a_body_of_12_megabytes_passes(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(text="ok")
    body = json.dumps({"model": "m", "messages": [{"content": "x" * 12_000_000}]}).encode()

    await service.generate(body)

    assert upstream.requests[0].body == body
    assert upstream.requests[0].header("content-length") == str(len(body))


async def test_a_stream_passes_and_ends_with_its_usage(start: Start, upstream: Upstream) -> None:
    service = await start(
        endpoint=upstream.base_url, **OPENAI, input_price_micros=1_000_000, output_price_micros=2
    )

    started, chunks, end = await _collect(service.stream())

    assert started.content_type.startswith("text/event-stream")
    body = b"".join(chunk.body for chunk in chunks)
    assert body.endswith(b"data: [DONE]\n\n")
    assert b'"prompt_tokens"' not in body
    assert [chunk.terminal for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert end.error == ""
    assert (end.generation.usage.input_tokens, end.generation.usage.output_tokens) == (3, 5)
    assert end.generation.cost_micros == 4
    assert end.generation.finish_reason == "stop"
    assert upstream.requests[0].json()["stream_options"] == {"include_usage": True}


async def test_chunks_pass_as_they_arrive(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(stall_after=2)

    async with aclosing(service.stream()) as steps, asyncio.timeout(2):
        assert (await anext(steps)).WhichOneof("step") == "start"
        body = b""
        while b"You" not in body:
            body += (await anext(steps)).chunk.body


async def test_connections_serve_again_after_answers_and_streams(
    start: Start, upstream: Upstream
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)

    for _ in range(3):
        await service.generate()
        await _collect(service.stream())

    assert upstream.connections == 1


@pytest.mark.parametrize(
    "failure",
    [
        (Script(status=400), InvalidArgument, "PROVIDER_REJECTED", 1),
        (Script(status=401), Unavailable, "PROVIDER_FAILED", 1),
        (Script(status=429), ResourceExhausted, "PROVIDER_THROTTLED", 2),
        (
            Script(status=429, headers={"retry-after": "60"}),
            ResourceExhausted,
            "PROVIDER_THROTTLED",
            1,
        ),
        (Script(status=500), Unavailable, "PROVIDER_FAILED", 2),
        (Script(reset=True), Unavailable, "PROVIDER_FAILED", 2),
        (Script(cut_after=0), Unavailable, "PROVIDER_FAILED", 2),
        (Script(body="{garbage"), Unavailable, "PROVIDER_FAILED", 2),
        (Script(body='{"error":{"message":"x"}}'), Unavailable, "PROVIDER_FAILED", 2),
        (Script(body="hello", content_type="text/html"), Unavailable, "PROVIDER_FAILED", 2),
        (Script(header_flood=200), Unavailable, "PROVIDER_FAILED", 1),
        (Script(delay_s=30), DeadlineExceeded, "DEADLINE_EXCEEDED", 1),
        (Script(stall_after=0), DeadlineExceeded, "DEADLINE_EXCEEDED", 1),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
async def test_a_provider_that_fails_before_the_first_byte_is_a_clear_error(
    start: Start,
    upstream: Upstream,
    failure: tuple[Script, type[WeaverError], str, int],
    streaming: bool,
) -> None:
    script, kind, reason, tries = failure
    service = await start(
        endpoint=upstream.base_url, **OPENAI, first_byte_timeout_ms=200, idle_timeout_ms=200
    )
    upstream.default = script

    with pytest.raises(kind) as caught:
        await (_collect(service.stream()) if streaming else service.generate())

    assert caught.value.reason == reason
    assert len(upstream.requests) == tries
    assert caught.value.metadata["attempts"] == str(tries)
    assert "sk-provider" not in str(caught.value.metadata) + caught.value.message
    retry_after = script.headers.get("retry-after")
    assert caught.value.retry_after_s == (None if retry_after is None else float(retry_after))


async def test_an_answer_of_20_megabytes_is_refused(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(pad_bytes=20_000_000)

    with pytest.raises(Unavailable, match="longer than 16777216 bytes"):
        await service.generate()
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(cut_after=3), "PROVIDER_FAILED"),
        (Script(end_after=3), "PROVIDER_FAILED"),
        (Script(garbage_after=3), "PROVIDER_FAILED"),
        (Script(error_after=3), "PROVIDER_FAILED"),
        (Script(done=False), "PROVIDER_FAILED"),
        (Script(cut_after=7), "PROVIDER_FAILED"),
        (Script(stall_after=3), "DEADLINE_EXCEEDED"),
        (Script(stall_after=7), "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_stream_that_breaks_never_looks_complete(
    start: Start, upstream: Upstream, script: Script, reason: str
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI, idle_timeout_ms=200)
    upstream.default = script

    _, chunks, end = await _collect(service.stream())

    assert (end.error, bool(end.error_message)) == (reason, True)
    assert not any(chunk.terminal for chunk in chunks)
    body = b"".join(chunk.body for chunk in chunks)
    assert b"[DONE]" not in body
    assert b'"finish_reason": "stop"' not in body
    assert end.generation.usage.output_tokens > 0
    assert end.generation.attempts[-1].error == reason
    assert service.component.health.snapshot()["provider:openai"][0] is False
    upstream.default = Script()
    await service.generate()
    assert service.component.health.snapshot()["provider:openai"][0] is True


async def test_leaving_a_stream_lets_go_of_the_provider_within_100_ms(
    start: Start, upstream: Upstream
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(stall_after=2)
    steps = service.stream()
    for _ in range(2):
        await anext(steps)

    left = time.monotonic()
    await steps.aclose()

    await _eventually(lambda: upstream.disconnects)
    assert upstream.disconnects[0] - left < 0.1


@pytest.mark.parametrize("streaming", [False, True])
async def test_leaving_before_the_answer_lets_go_of_the_provider_within_100_ms(
    start: Start,
    upstream: Upstream,
    streaming: bool,
) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(delay_s=30)
    waiting = _collect(service.stream()) if streaming else service.generate()
    task = asyncio.ensure_future(waiting)
    await _eventually(lambda: upstream.requests)

    left = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await _eventually(lambda: upstream.disconnects)
    assert upstream.disconnects[0] - left < 0.1


async def test_the_callers_deadline_ends_the_call(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(delay_s=30)

    with pytest.raises(DeadlineExceeded):
        await service.generate(timeout_s=0.3)
    await _eventually(lambda: upstream.disconnects)


async def test_a_provider_that_is_not_there_cannot_be_reached(start: Start) -> None:
    service = await start(endpoint="http://127.0.0.1:9/v1", **OPENAI)

    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await service.generate()
    assert caught.value.metadata["http_status"] == "502"


async def test_embeddings_pass(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)

    answer = await service.generate(
        b'{"model":"m","input":["a b","c"]}', pb.DIALECT_OPENAI_EMBEDDINGS
    )

    assert upstream.requests[0].path == "/v1/embeddings"
    assert b"1e-05" in answer.body
    assert answer.generation.usage.input_tokens == 3


async def test_the_stub_needs_no_network(start: Start) -> None:
    service = await start()
    body = b'{"messages":[{"role":"user","content":"hello"}]}'

    answer = await service.generate(body, model="stub-model")

    content = json.loads(answer.body)["choices"][0]["message"]["content"]
    assert content.startswith("You said: hello")
    assert answer.generation.provider == "stub"


async def test_what_is_not_served_is_refused(start: Start) -> None:
    service = await start(model_name="m")

    with pytest.raises(NotFound) as missing:
        await service.generate(model="other")
    assert missing.value.reason == "MODEL_NOT_FOUND"
    for dialect in (pb.DIALECT_OPENAI_RESPONSES, pb.DIALECT_ANTHROPIC_MESSAGES):
        with pytest.raises(Unimplemented, match="cannot be reached through"):
            await service.generate(dialect=dialect)
    with pytest.raises(InvalidArgument, match="dialect"):
        await service.generate(dialect=pb.DIALECT_UNSPECIFIED)
    with pytest.raises(InvalidArgument):
        await service.generate(b"{")
    with pytest.raises(InvalidArgument, match="stream"):
        await _collect(service.stream(b'{"messages":[]}'))


async def test_models_are_listed_with_limits_and_prices(start: Start) -> None:
    service = await start(
        model_name="m", context_tokens=8192, max_output_tokens=1024, input_price_micros=5
    )

    (model,) = await service.models()

    assert (model.id, model.provider) == ("m", "stub")
    assert (model.context_tokens, model.max_output_tokens) == (8192, 1024)
    assert (model.input_price_micros, model.output_price_micros) == (5, 0)
    assert model.price_version
    assert list(model.dialects) == [pb.DIALECT_OPENAI_CHAT, pb.DIALECT_OPENAI_EMBEDDINGS]


async def test_a_client_that_does_not_read_holds_the_provider_back(
    start: Start, upstream: Upstream
) -> None:
    largest = 28 * 1024 * 1024
    service = await start(endpoint=upstream.base_url, **OPENAI, max_answer_bytes=largest)
    upstream.default = Script(text=" ".join(["x" * 50_000] * 500))
    steps = service.stream()
    await anext(steps)
    await anext(steps)
    await asyncio.sleep(0.5)

    await steps.aclose()

    await _eventually(lambda: upstream.disconnects)


async def test_a_provider_that_speaks_no_tls_cannot_be_reached(
    start: Start, upstream: Upstream
) -> None:
    service = await start(
        endpoint=upstream.base_url.replace("http://", "https://"), **OPENAI, connect_timeout_ms=500
    )

    with pytest.raises(Unavailable) as caught:
        await service.generate()
    assert caught.value.reason == "PROVIDER_FAILED"
