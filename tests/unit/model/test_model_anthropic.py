"""The Anthropic provider over a transport without a network."""

import json
from typing import Any

import httpx
import pytest

from services.common.errors import InvalidArgument, ResourceExhausted, Unavailable
from services.model.call import Call, Chunk, Dialect, Facts, Usage
from services.model.credential import Credential, named
from services.model.event_stream import EventStream
from services.model.failure import ProviderError
from services.model.providers.anthropic import Anthropic
from services.model.upstream import Endpoint, Limits
from tests.fakes.instant import LoopClock, run
from tests.fakes.wire import Canned, Piece, Wire

ODD = b'{"max_tokens":1e1, "model":"m",\n"messages":[{"content":"hi","role":"user"}],"new":{}}'
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m-1",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 3,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 11,
        "output_tokens_details": {"thinking_tokens": 2},
        "service_tier": "standard",
    },
}
LIMITS = Limits(connect_s=1, first_byte_s=10, idle_s=5, answer_bytes=4096)


def sse(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind} | fields)
    return f"event: {kind}\ndata: {data}\n\n".encode()


START = sse("message_start", message=ANSWER | {"content": [], "stop_reason": None})
BEGIN = sse("content_block_start", index=0, content_block={"type": "text", "text": ""})
PING = sse("ping")
WORD = sse("content_block_delta", index=0, delta={"type": "text_delta", "text": "twelve chars"})
STOP = sse("content_block_stop", index=0)
END = sse(
    "message_delta",
    delta={"stop_reason": "end_turn", "stop_sequence": None},
    usage={"output_tokens": 15},
)
DONE = sse("message_stop")


def provider(wire: Wire) -> Anthropic:
    endpoint = Endpoint(
        wire,
        "https://provider.test/v1",
        (),
        LIMITS,
        credential=Credential("sk-ant-1"),
        key_header=named("x-api-key"),
    )
    return Anthropic(endpoint, LoopClock())


def call(
    body: bytes = ODD,
    dialect: Dialect = Dialect.ANTHROPIC_MESSAGES,
    headers: tuple[tuple[str, str], ...] = (),
) -> Call:
    return Call("r-1", dialect, "m", body, headers)


def whole(canned: Canned, asked: Call | None = None) -> Any:
    return run(provider(Wire(canned)).generate(asked or call()))


async def collect(stream: EventStream) -> tuple[list[Chunk], ProviderError | None, Facts]:
    chunks = []
    try:
        while (chunk := await stream.read()) is not None:
            chunks.append(chunk)
    except ProviderError as error:
        return chunks, error, stream.facts
    finally:
        await stream.aclose()
    return chunks, None, stream.facts


def streamed(*pieces: Piece) -> tuple[list[Chunk], ProviderError | None, Facts]:
    async def main() -> tuple[list[Chunk], ProviderError | None, Facts]:
        canned = Canned(pieces=pieces, content_type="text/event-stream")
        return await collect(await provider(Wire(canned)).open(call()))

    return run(main())


def test_bodies_pass_both_ways_byte_for_byte() -> None:
    body = json.dumps(ANSWER, indent=1).encode()
    wire = Wire(Canned(pieces=(body[:30], body[30:]), headers={"request-id": "req_1"}))
    answer = run(provider(wire).generate(call()))
    assert wire.bodies == [ODD]
    assert answer.body == body
    assert answer.facts.usage == Usage(15, 11, 7, 5, 2)
    assert (answer.facts.model, answer.facts.finish_reason) == ("m-1", "end_turn")
    assert answer.headers == (("x-upstream-request-id", "req_1"),)


def test_only_headers_of_the_list_pass_and_the_key_is_our_own() -> None:
    wire = Wire(Canned(pieces=(json.dumps(ANSWER).encode(),)))
    headers = (
        ("anthropic-beta", "a-1,b-2"),
        ("authorization", "Bearer client"),
        ("openai-organization", "o"),
        ("x-api-key", "client"),
    )
    run(provider(wire).generate(call(headers=headers)))
    sent = wire.requests[0].headers
    assert str(wire.requests[0].url) == "https://provider.test/v1/messages"
    assert sent["x-api-key"] == "sk-ant-1"
    assert sent["anthropic-beta"] == "a-1,b-2"
    assert sent["anthropic-version"] == "2023-06-01"
    assert sent["x-request-id"] == "r-1"
    assert "authorization" not in sent
    assert "openai-organization" not in sent


def test_the_version_that_the_client_names_is_asked_for() -> None:
    wire = Wire(Canned(pieces=(json.dumps(ANSWER).encode(),)))
    run(provider(wire).generate(call(headers=(("anthropic-version", "2099-01-01"),))))
    assert wire.requests[0].headers.get_list("anthropic-version") == ["2099-01-01"]


def test_tokens_are_counted_by_the_provider_and_cost_nothing() -> None:
    wire = Wire(Canned(pieces=(b'{ "input_tokens":12 }',)))
    answer = run(provider(wire).generate(call(dialect=Dialect.ANTHROPIC_COUNT_TOKENS)))
    assert str(wire.requests[0].url).endswith("/v1/messages/count_tokens")
    assert answer.body == b'{ "input_tokens":12 }'
    assert answer.facts.usage == Usage()


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (b"{", Dialect.ANTHROPIC_MESSAGES),
        (b"[]", Dialect.ANTHROPIC_MESSAGES),
        (b'{"type":"message"}', Dialect.ANTHROPIC_MESSAGES),
        (b'{"type":"error","error":{"type":"api_error"}}', Dialect.ANTHROPIC_MESSAGES),
        (b"{}", Dialect.ANTHROPIC_COUNT_TOKENS),
    ],
)
def test_what_is_no_answer_is_the_providers_failure(body: bytes, dialect: Dialect) -> None:
    with pytest.raises(ProviderError) as caught:
        whole(Canned(pieces=(body,)), call(dialect=dialect))
    assert isinstance(caught.value.error, Unavailable)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, InvalidArgument, False),
        (401, Unavailable, False),
        (429, ResourceExhausted, True),
        (500, Unavailable, True),
        (529, Unavailable, True),
    ],
)
def test_statuses_become_what_the_caller_is_told(
    status: int, kind: type[Exception], retryable: bool
) -> None:
    error = {"type": "error", "error": {"type": "x", "message": "no sk-ant-1 here"}}
    with pytest.raises(ProviderError) as caught:
        whole(Canned(status, pieces=(json.dumps(error).encode(),)))
    assert isinstance(caught.value.error, kind)
    assert caught.value.retryable is retryable
    assert "sk-ant-1" not in str(caught.value.error.metadata) + caught.value.error.message


def test_an_account_without_credit_is_not_the_callers_mistake() -> None:
    words = "Your credit balance is too low to access the API."
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    with pytest.raises(ProviderError) as caught:
        whole(Canned(400, pieces=(json.dumps(error).encode(),)))
    assert isinstance(caught.value.error, ResourceExhausted)
    assert not caught.value.retryable


def test_a_long_error_is_cut_in_its_own_shape() -> None:
    error = {"type": "error", "error": {"type": "x", "message": "y" * 3500}}
    with pytest.raises(ProviderError) as caught:
        whole(Canned(400, pieces=(json.dumps(error).encode(),)))
    shown = json.loads(caught.value.error.metadata["vendor_body"])
    assert shown == {"type": "error", "error": {"type": "x", "message": "y" * 200}}


def test_a_stream_passes_and_its_end_is_held_until_it_is_whole() -> None:
    chunks, error, facts = streamed(START, PING + BEGIN + WORD[:20], WORD[20:], STOP, END, DONE)
    assert error is None
    assert [chunk.body for chunk in chunks] == [START, PING + BEGIN, WORD, STOP, END + DONE]
    assert [chunk.terminal for chunk in chunks] == [False] * 4 + [True]
    assert facts.usage == Usage(15, 15, 7, 5, 2)
    assert (facts.model, facts.finish_reason) == ("m-1", "end_turn")


@pytest.mark.parametrize("cut", [(), (STOP,), (STOP, END), (STOP, END, DONE[:9])])
def test_a_stream_that_is_cut_never_looks_whole(cut: tuple[bytes, ...]) -> None:
    chunks, error, _ = streamed(START, BEGIN, WORD, *cut)
    assert error is not None
    assert not any(chunk.terminal for chunk in chunks)
    assert b"stop_reason" not in b"".join(chunk.body for chunk in chunks[1:])


def test_a_stream_that_breaks_off_is_charged_for_what_it_said() -> None:
    start = sse(
        "message_start", message=ANSWER | {"usage": {"input_tokens": 9, "output_tokens": 1}}
    )
    _, error, facts = streamed(start, BEGIN, WORD, httpx.ReadError("cut"))
    assert error is not None
    assert facts.usage == Usage(9, 3, estimated=True)


def test_an_error_event_ends_the_stream_as_broken_off() -> None:
    event = sse("error", error={"type": "overloaded_error", "message": "Overloaded"})
    chunks, error, _ = streamed(START, BEGIN, event)
    assert [chunk.body for chunk in chunks] == [START, BEGIN]
    assert error is not None
    assert isinstance(error.error, Unavailable)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rate_limit_error", ResourceExhausted),
        ("invalid_request_error", InvalidArgument),
        ("overloaded_error", Unavailable),
    ],
)
def test_an_error_before_the_message_fails_like_a_whole_call(
    kind: str, expected: type[Exception]
) -> None:
    with pytest.raises(ProviderError) as caught:
        streamed(PING, sse("error", error={"type": kind, "message": "no"}))
    assert isinstance(caught.value.error, expected)


@pytest.mark.parametrize("bad", [b"data: {\n\n", b"data: 3\n\n", DONE])
def test_a_stream_of_nonsense_is_the_providers_failure(bad: bytes) -> None:
    _, error, _ = streamed(START, bad)
    assert error is not None
    assert isinstance(error.error, Unavailable)


def test_a_provider_that_goes_on_after_the_end_is_cut() -> None:
    big = sse("ping", pad="x" * 900_000)
    endpoint = Endpoint(
        Wire(Canned(pieces=(START, END, big, big, big), content_type="text/event-stream")),
        "https://provider.test/v1",
        (),
        Limits(answer_bytes=10_000_000),
    )

    async def main() -> tuple[list[Chunk], ProviderError | None, Facts]:
        return await collect(await Anthropic(endpoint, LoopClock()).open(call()))

    chunks, error, _ = run(main())
    assert error is not None
    assert not any(chunk.terminal for chunk in chunks)


def test_counts_that_cannot_be_true_are_not_believed() -> None:
    body = json.dumps(ANSWER | {"usage": {"input_tokens": -1, "output_tokens": 1e300}}).encode()
    answer = whole(Canned(pieces=(body,)))
    assert answer.facts.usage is None
    assert answer.facts.answer_bytes > 0
    silent = json.dumps(ANSWER | {"usage": None}).encode()
    assert whole(Canned(pieces=(silent,))).facts.answer_bytes > 0


def test_news_without_an_end_pass_at_once() -> None:
    news = sse("message_delta", delta={"container": None}, usage={"output_tokens": 5})
    final = sse("message_delta", delta={"stop_reason": "end_turn"})
    chunks, error, facts = streamed(START, news, final, DONE)
    assert error is None
    assert [chunk.body for chunk in chunks] == [START, news, final + DONE]
    assert facts.usage is not None
    assert (facts.usage.output_tokens, facts.usage.estimated) == (5, True)
