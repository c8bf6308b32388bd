"""A provider that is asked in another dialect than its own."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument, WeaverError
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Usage
from services.model.dialects.to_anthropic import ToAnthropic
from services.model.dialects.to_openai import ToOpenAI
from services.model.dialects.translation import Translating
from services.model.failure import ProviderError, rejected
from services.model.sse import Parser
from tests.fakes.dialects import asked, message_of, retold
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, FakeStream
from tests.fakes.recordings import OPENAI_ANSWER, openai_stream

USAGE = Usage(22, 20, 7, 0, 4)
FACTS = Facts("real-model", "tool_calls", USAGE)
BODY: dict[str, Any] = {
    "model": "m",
    "max_tokens": 10,
    "messages": [{"role": "user", "content": "twelve chars"}],
}
ASK = asked(BODY, Dialect.ANTHROPIC_MESSAGES)


def translating(*script: Any) -> tuple[Translating, FakeProvider]:
    provider = FakeProvider(*script)
    return Translating(provider, LoopClock()), provider


def test_its_own_dialect_passes_untouched() -> None:
    answer = Answer(b"{ }", Facts())
    asking, provider = translating(answer, FakeStream(Facts()))
    own = Call("r", Dialect.OPENAI_CHAT, "m", b"no json")
    assert run(asking.generate(own)) is answer
    assert isinstance(run(asking.open(own)), FakeStream)
    assert provider.calls == [own, own]


def test_it_can_be_asked_in_both_dialects() -> None:
    asking, _ = translating()
    assert asking.name == "one"
    assert asking.dialects == {
        Dialect.OPENAI_CHAT,
        Dialect.ANTHROPIC_MESSAGES,
        Dialect.ANTHROPIC_COUNT_TOKENS,
    }


def test_a_provider_of_vectors_alone_is_asked_for_nothing_else() -> None:
    provider = FakeProvider()
    provider.dialects = frozenset({Dialect.OPENAI_EMBEDDINGS})
    assert Translating(provider, LoopClock()).dialects == {Dialect.OPENAI_EMBEDDINGS}


def test_an_answer_comes_back_in_the_clients_dialect() -> None:
    body = json.dumps(OPENAI_ANSWER).encode()
    asking, provider = translating(Answer(body, FACTS, headers=(("a", "b"),)))
    hinted = asked(BODY | {"cache_control": {"type": "ephemeral"}}, Dialect.ANTHROPIC_MESSAGES)
    beta = Call("r", hinted.dialect, "m", hinted.body, (("anthropic-beta", "x"),))
    answer = run(asking.generate(beta))
    assert json.loads(answer.body)["type"] == "message"
    assert answer.headers == (("a", "b"), ("x-weaver-left-out", "anthropic-beta, cache_control"))
    assert answer.facts is FACTS
    (call,) = provider.calls
    assert (call.dialect, json.loads(call.body)["max_completion_tokens"]) == (
        Dialect.OPENAI_CHAT,
        10,
    )


@pytest.mark.parametrize(("letters", "expected"), [(1000, 0), (400_000, 2)])
def test_what_is_large_is_translated_beside_the_event_loop(
    letters: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = []

    async def to_thread(work: Callable[[], object]) -> object:
        away.append(work)
        return work()

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    text = "x" * letters
    message = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    asking, provider = translating(Answer(json.dumps(message).encode(), FACTS))
    messages = [{"role": "user", "content": text}]
    answer = run(asking.generate(asked(BODY | {"messages": messages}, Dialect.ANTHROPIC_MESSAGES)))
    assert json.loads(answer.body)["content"][0]["text"] == text
    assert json.loads(provider.calls[0].body)["messages"] == messages
    assert len(away) == expected


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices":[]}', b'{"choices":3}'])
def test_an_answer_of_nonsense_is_the_providers_failure(body: bytes) -> None:
    asking, _ = translating(Answer(body, FACTS))
    with pytest.raises(ProviderError) as caught:
        run(asking.generate(ASK))
    assert caught.value.error.reason == "PROVIDER_FAILED"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_request_of_nonsense_is_refused(body: bytes) -> None:
    asking, provider = translating()
    with pytest.raises(ProviderError) as caught:
        run(asking.generate(Call("r", Dialect.ANTHROPIC_MESSAGES, "m", body)))
    assert isinstance(caught.value.error, InvalidArgument)
    assert not provider.calls


def test_what_cannot_be_said_leaves_the_provider_alone() -> None:
    asking, provider = translating()
    with pytest.raises(ProviderError) as caught:
        run(asking.open(asked(BODY | {"top_k": 3}, Dialect.ANTHROPIC_MESSAGES)))
    assert caught.value.elsewhere
    assert not provider.calls


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_comes_back_in_the_clients_dialect(stream: bool) -> None:
    body = json.dumps({"error": {"message": "no ü", "type": "x", "param": "stop"}}).encode()
    asking, _ = translating(rejected(400, body))
    with pytest.raises(ProviderError) as caught:
        run(asking.open(ASK) if stream else asking.generate(ASK))
    vendor = caught.value.error.metadata["vendor_body"]
    assert vendor.isascii()
    assert json.loads(vendor) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no ü"},
    }


def test_a_failure_without_words_stays_as_it_is() -> None:
    asking, _ = translating(rejected(400, b"no json"))
    with pytest.raises(ProviderError) as caught:
        run(asking.generate(ASK))
    assert "vendor_body" not in caught.value.error.metadata


def test_a_long_refusal_is_left_to_the_gateways_words() -> None:
    body = json.dumps({"error": {"message": "y" * 3020, "type": "x"}}).encode()
    asking, _ = translating(rejected(400, body))
    with pytest.raises(ProviderError) as caught:
        run(asking.generate(ASK))
    assert "vendor_body" not in caught.value.error.metadata
    assert caught.value.error.message == "y" * 500


def test_a_stream_comes_back_in_the_clients_dialect() -> None:
    """Chunks become chunks, and the terminal one stays the terminal one."""
    raws = [event.raw for event in Parser().feed(openai_stream())]
    steps = [Chunk(raw) for raw in raws[:-3]]
    stream = FakeStream(FACTS, *steps, Chunk(b"".join(raws[-3:]), terminal=True), None)
    asking, _ = translating(stream)

    async def main() -> list[Chunk]:
        opened = await asking.open(ASK)
        assert opened.headers == stream.headers
        assert opened.content_type.startswith("text/event-stream")
        chunks = []
        while (chunk := await opened.read()) is not None:
            chunks.append(chunk)
        assert opened.facts is FACTS
        await opened.aclose()
        return chunks

    chunks = run(main())
    assert stream.closed
    assert [chunk.terminal for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert b"message_stop" not in b"".join(chunk.body for chunk in chunks[:-1])
    message = message_of(b"".join(chunk.body for chunk in chunks))
    assert [block.get("input") for block in message["content"]] == [
        None,
        {"city": "Ulm"},
        {"city": "Köln"},
    ]


def test_a_stream_of_nonsense_is_the_providers_failure() -> None:
    asking, _ = translating(FakeStream(FACTS, Chunk(b'data: {"choices":3}\n\n')))

    async def main() -> None:
        await (await asking.open(ASK)).read()

    with pytest.raises(ProviderError):
        run(main())


def test_tokens_are_estimated_where_the_provider_does_not_count() -> None:
    asking, provider = translating()
    answer = run(asking.generate(asked(BODY, Dialect.ANTHROPIC_COUNT_TOKENS)))
    assert json.loads(answer.body)["estimated"] is True
    assert json.loads(answer.body)["input_tokens"] > 0
    assert answer.headers == (("x-weaver-estimated", "input_tokens"),)
    assert answer.facts.usage == Usage()
    assert not provider.calls


@pytest.mark.parametrize("depth", [200, 450, 900, 990, 998, 5000])
def test_no_depth_breaks_anything(depth: int) -> None:
    """Nested requests and answers are translated, refused, counted; never a defect."""
    nested = "[" * depth + "]" * depth
    fields = f'"model":"m","max_tokens":5,"messages":[{{"role":"user","content":{nested}}}]'
    schema = '"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}],"tools":'
    schema += f'[{{"name":"t","input_schema":{{"x":{nested}}}}}]'
    arguments = json.dumps(f'{{"x":{nested}}}')
    call = f'{{"id":"a","function":{{"name":"t","arguments":{arguments}}}}}'
    answer = f'{{"choices":[{{"message":{{"tool_calls":[{call}]}}}}]}}'.encode()
    for body in (fields, schema):
        asking, _ = translating(Answer(answer, FACTS))
        asked_for = Call("r", Dialect.ANTHROPIC_MESSAGES, "m", f"{{{body}}}".encode())
        error = failure_of(partial(_generate, asking, asked_for))
        assert error is None or error.reason in {"INVALID_REQUEST", "PROVIDER_FAILED"}
        counting = Call("r", Dialect.ANTHROPIC_COUNT_TOKENS, "m", f"{{{body}}}".encode())
        assert failure_of(partial(_generate, asking, counting)) is None


TEXT = st.text(min_size=1, max_size=8)
NAME = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OBJECT = st.dictionaries(TEXT, JSON, max_size=3)
BLOCK = st.fixed_dictionaries({"type": st.just("text"), "text": TEXT})
IMAGE = st.fixed_dictionaries(
    {
        "type": st.just("image"),
        "source": st.fixed_dictionaries(
            {
                "type": st.just("base64"),
                "media_type": st.sampled_from(["image/png", "image/jpeg"]),
                "data": st.sampled_from(["iVBORw0KGgo=", "AAAA"]),
            }
        ),
    }
)
TOOL_USE = st.fixed_dictionaries(
    {"type": st.just("tool_use"), "id": NAME, "name": NAME, "input": OBJECT}
)
RESULT = st.fixed_dictionaries(
    {"type": st.just("tool_result"), "tool_use_id": NAME, "content": TEXT}
)
USER = st.tuples(st.lists(RESULT, max_size=2), st.lists(BLOCK | IMAGE, min_size=1, max_size=3)).map(
    lambda pair: {"role": "user", "content": [*pair[0], *pair[1]]}
)
ASSISTANT = st.tuples(st.lists(BLOCK, min_size=1, max_size=2), st.lists(TOOL_USE, max_size=2)).map(
    lambda pair: {"role": "assistant", "content": [*pair[0], *pair[1]]}
)
TURNS = st.lists(st.tuples(USER, ASSISTANT), max_size=3).flatmap(
    lambda pairs: USER.map(lambda last: [turn for pair in pairs for turn in pair] + [last])
)
TOOL = st.fixed_dictionaries(
    {"name": NAME, "input_schema": st.just({"type": "object", "properties": {}})},
    optional={"description": TEXT, "strict": st.just(value=True)},
)
MESSAGE_REQUEST = st.fixed_dictionaries(
    {"model": st.just("m"), "max_tokens": st.integers(1, 10**6), "messages": TURNS},
    optional={
        "system": st.lists(BLOCK, min_size=1, max_size=2),
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "stop_sequences": st.lists(TEXT, min_size=1, max_size=3),
        "stream": st.booleans(),
        "tools": st.lists(TOOL, min_size=1, max_size=2),
        "tool_choice": st.sampled_from(
            [{"type": "auto"}, {"type": "any"}, {"type": "none"}, {"type": "tool", "name": "x"}]
        ),
        "metadata": st.fixed_dictionaries({"user_id": TEXT}),
        "service_tier": st.sampled_from(["auto", "standard_only"]),
        "output_config": st.fixed_dictionaries(
            {"effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"])},
            optional={
                "format": st.just({"type": "json_schema", "schema": {"type": "object"}}),
            },
        ),
    },
)


TEXT_PART = BLOCK
IMAGE_PART = st.sampled_from(
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    ]
)
FILE_PART = st.just(
    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}}
)
CALL = st.builds(
    lambda identifier, name, arguments: {
        "id": identifier,
        "type": "function",
        "function": {
            "name": name,
            "arguments": json.dumps(arguments, separators=(",", ":"), ensure_ascii=False),
        },
    },
    NAME,
    NAME,
    st.dictionaries(NAME, st.integers(-(2**53), 2**53) | NAME, max_size=3),
)
ASKED_TURN = st.tuples(
    TEXT | st.lists(TEXT_PART | IMAGE_PART | FILE_PART, min_size=2, max_size=3),
    TEXT,
    st.lists(CALL, max_size=2),
).map(
    lambda turn: [
        {"role": "user", "content": turn[0]},
        {"role": "assistant", "content": turn[1]} | ({"tool_calls": turn[2]} if turn[2] else {}),
        *({"role": "tool", "tool_call_id": call["id"], "content": turn[1]} for call in turn[2]),
    ]
)
COMPLETION_REQUEST = st.fixed_dictionaries(
    {
        "model": st.just("m"),
        "max_completion_tokens": st.integers(1, 10**6),
        "messages": st.tuples(
            st.lists(TEXT.map(lambda text: {"role": "system", "content": text}), max_size=1),
            st.lists(ASKED_TURN, max_size=2),
            TEXT,
        ).map(
            lambda parts: [
                *parts[0],
                *(message for turn in parts[1] for message in turn),
                {"role": "user", "content": parts[2]},
            ]
        ),
    },
    optional={
        "temperature": st.floats(0, 1),
        "top_p": st.floats(0, 1),
        "stop": st.lists(TEXT, min_size=1, max_size=3),
        "stream": st.booleans(),
        "user": TEXT,
        "service_tier": st.sampled_from(["auto", "default"]),
        "reasoning_effort": st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
        "response_format": st.just(
            {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": {"type": "object"}, "strict": True},
            }
        ),
    },
)


@given(COMPLETION_REQUEST)
def test_a_completion_there_and_back_keeps_what_the_table_says_maps(
    request: dict[str, Any],
) -> None:
    there, left_out = retold(ToAnthropic(), asked(request))
    assert not left_out
    back, left_out = retold(ToOpenAI(), asked(there, Dialect.ANTHROPIC_MESSAGES))
    assert not left_out
    assert back == request


@given(MESSAGE_REQUEST)
def test_a_request_there_and_back_keeps_what_the_table_says_maps(request: dict[str, Any]) -> None:
    there, left_out = retold(ToOpenAI(), asked(request, Dialect.ANTHROPIC_MESSAGES))
    assert not left_out
    back, left_out = retold(ToAnthropic(), asked(there))
    assert not left_out
    assert back == request


WORDS = "type role content text messages tools source function input image_url file system thinking"
VALUES = ["text", "image", "user", "assistant", "tool", "tool_use", "base64"]
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS.split()) | TEXT, inner | st.sampled_from(VALUES), max_size=5
        )
    ),
    max_leaves=20,
)


def failure_of(asking: Callable[[], object]) -> WeaverError | None:
    """Return what a provider's failure says; None when it did not fail."""
    try:
        asking()
    except ProviderError as failure:
        return failure.error
    return None


@given(st.dictionaries(st.sampled_from(["messages", "tools", "max_tokens", "stop"]), ANYTHING))
def test_no_request_breaks_a_translation(body: dict[str, Any]) -> None:
    """Whatever comes is translated, or refused by the name of a field."""
    call = asked({"model": "m", "max_tokens": 5} | body)
    for translator in (ToOpenAI(), ToAnthropic()):
        error = failure_of(partial(retold, translator, call))
        assert error is None or (isinstance(error, InvalidArgument) and error.violations[0].field)


@given(st.lists(ANYTHING, max_size=6))
def test_no_answer_breaks_a_translation(events: list[Any]) -> None:
    """Whatever a provider says is translated, or its failure."""
    for dialect, own in (
        (Dialect.ANTHROPIC_MESSAGES, Dialect.OPENAI_CHAT),
        (Dialect.OPENAI_CHAT, Dialect.ANTHROPIC_MESSAGES),
    ):
        raws = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
        stream = FakeStream(Facts(), *map(Chunk, raws), Chunk(b"", terminal=True), None)
        provider = FakeProvider(stream, Answer(json.dumps(events).encode(), Facts()))
        provider.dialects = frozenset({own})
        asking = Translating(provider, LoopClock())
        call = asked(BODY, dialect)
        for error in (
            failure_of(partial(_read, asking, call)),
            failure_of(partial(_generate, asking, call)),
        ):
            assert error is None or error.reason == "PROVIDER_FAILED"


def _generate(asking: Translating, call: Call) -> None:
    run(asking.generate(call))


def _read(asking: Translating, call: Call) -> None:
    async def main() -> None:
        opened = await asking.open(call)
        while await opened.read() is not None:
            pass

    run(main())
