"""ModelService in process and over gRPC, against a real HTTP server that can misbehave."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
    WeaverError,
)
from tests.fakes.model_service import ODD, OPENAI, Start, collect, starter
from tests.fakes.upstream import Script, Upstream
from tests.fakes.waiting import eventually
from weaver.model.v1 import model_service_pb2 as pb


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def upstream(stack: AsyncExitStack) -> Upstream:
    return await stack.enter_async_context(Upstream())


@pytest.fixture(params=["local", "grpc"])
def start(request: pytest.FixtureRequest, stack: AsyncExitStack) -> Start:
    return starter(request.param, stack)


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
    assert {header.name: header.value for header in answer.headers} == {
        "x-upstream-request-id": "upstream-1",
        "openai-processing-ms": "7",
        "x-weaver-provider": "openai",
        "x-weaver-attempts": "1",
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
        await (collect(service.stream()) if streaming else service.generate())

    assert caught.value.reason == reason
    assert len(upstream.requests) == tries
    assert caught.value.metadata["attempts"] == str(tries)
    assert "sk-provider" not in str(caught.value.metadata) + caught.value.message
    # Who throttles without a word of when to return is asked again in a second.
    default = "1" if kind is ResourceExhausted else None
    retry_after = script.headers.get("retry-after", default)
    assert caught.value.retry_after_s == (None if retry_after is None else float(retry_after))


async def test_an_answer_of_20_megabytes_is_refused(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(pad_bytes=20_000_000)

    with pytest.raises(Unavailable, match="longer than 16777216 bytes"):
        await service.generate()
    assert len(upstream.requests) == 1


async def test_the_callers_deadline_ends_the_call(start: Start, upstream: Upstream) -> None:
    service = await start(endpoint=upstream.base_url, **OPENAI)
    upstream.default = Script(delay_s=30)

    with pytest.raises(DeadlineExceeded):
        await service.generate(timeout_s=0.3)
    await eventually(lambda: upstream.disconnects)


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
    with pytest.raises(InvalidArgument, match="dialect"):
        await service.generate(dialect=pb.DIALECT_UNSPECIFIED)
    with pytest.raises(InvalidArgument):
        await service.generate(b"{")
    with pytest.raises(InvalidArgument, match="stream"):
        await collect(service.stream(b'{"messages":[]}'))


async def test_models_are_listed_with_limits_and_prices(start: Start) -> None:
    service = await start(
        model_name="m", context_tokens=8192, max_output_tokens=1024, input_price_micros=5
    )

    (model,) = await service.models()

    assert (model.id, model.provider) == ("m", "stub")
    assert (model.context_tokens, model.max_output_tokens) == (8192, 1024)
    assert (model.input_price_micros, model.output_price_micros) == (5, 0)
    assert model.price_version
    assert pb.DIALECT_OPENAI_CHAT in model.dialects


async def test_a_provider_that_speaks_no_tls_cannot_be_reached(
    start: Start, upstream: Upstream
) -> None:
    service = await start(
        endpoint=upstream.base_url.replace("http://", "https://"), **OPENAI, connect_timeout_ms=500
    )

    with pytest.raises(Unavailable) as caught:
        await service.generate()
    assert caught.value.reason == "PROVIDER_FAILED"
