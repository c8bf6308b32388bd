"""OpenAI's chat completions on the wire."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument, Unavailable
from services.model.call import Usage
from services.model.failure import ProviderError
from services.model.openai_chat import (
    MAX_HELD_BYTES,
    StreamPlan,
    StreamWatch,
    plan_stream,
    read_answer,
)
from services.model.sse import Event
from services.model.usage import counted

ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "model": "m-1"}
WORD = {"choices": [{"index": 0, "delta": {"content": "hello"}}]}
FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def event(value: object) -> Event:
    data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    return Event(b"data: " + data + b"\n\n", data)


DONE = event("[DONE]")


def watch(choices: int = 1, *, usage_added: bool = False) -> StreamWatch:
    return StreamWatch(StreamPlan(b"", choices, usage_added=usage_added))


def test_plan_leaves_a_body_that_asks_for_usage_as_it_is() -> None:
    body = b'{"stream":true, "x":1e5,"stream_options":{"include_usage":true},"n":2}'

    assert plan_stream(body, ask_usage=True) == StreamPlan(body, 2, usage_added=False)


def test_plan_leaves_the_body_as_it_is_when_usage_is_switched_off() -> None:
    body = b'{"stream":true}'

    assert plan_stream(body, ask_usage=False) == StreamPlan(body, 1, usage_added=False)


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options": {}', b',"stream_options": {"include_usage":true}'),
        (
            b',"stream_options":{"include_usage": false, "y":1.0}',
            b',"stream_options":{"include_usage": true, "y":1.0}',
        ),
        (
            b',"stream_options":{"y":[1]}',
            b',"stream_options":{"y":[1],"include_usage":true}',
        ),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (b',"str\\u0065am_options":{"y":1}', None),
    ],
)
def test_plan_asks_for_usage_and_changes_nothing_else(options: bytes, merged: bytes | None) -> None:
    head = b'{"stream" : true,"temperature":1e0 ,"n":null'

    plan = plan_stream(head + options + b"}", ask_usage=True)

    assert (plan.choices, plan.usage_added) == (1, True)
    assert json.loads(plan.body)["stream_options"]["include_usage"] is True
    if merged is not None:
        assert plan.body == head + merged + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"stream":false}',
        b'{"stream":1}',
        b'{"stream":true,"n":"x"}',
        b'{"stream":true,"stream_options":3}',
        b"\xff",
        b'{"stream":true',
    ],
)
def test_plan_refuses_what_is_no_request_for_a_stream(body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        plan_stream(body, ask_usage=True)
    assert caught.value.violations


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5))
def test_plan_only_ever_adds_the_question_for_usage(fields: dict[str, object]) -> None:
    fields = {**fields, "stream": True, "n": 1}
    fields.pop("stream_options", None)

    edited = json.loads(plan_stream(json.dumps(fields).encode(), ask_usage=True).body)

    assert edited == {**fields, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize(("n", "choices"), [("10000000000000", 10**13), ("-1", 1), ("0", 1)])
def test_an_absurd_number_of_answers_costs_nothing(n: str, choices: int) -> None:
    plan = plan_stream(b'{"stream":true,"n":%s}' % n.encode(), ask_usage=False)

    assert plan.choices == choices
    assert StreamWatch(plan).take(event(FINISH)) == (event(FINISH).raw if choices > 1 else b"")


def test_read_answer_takes_what_the_provider_says() -> None:
    facts = read_answer(
        json.dumps(
            {
                "model": "m-1",
                "choices": [{"finish_reason": "length", "message": {"content": "x"}}, {}],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 8.0,
                    "prompt_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 1},
                    "completion_tokens_details": {"reasoning_tokens": 6, "new": {}},
                },
            }
        ).encode()
    )

    assert (facts.model, facts.finish_reason) == ("m-1", "length")
    assert facts.usage == Usage(9, 8, 7, 1, 6)


def test_read_answer_measures_the_text_when_there_is_no_usage() -> None:
    message = {"content": "é", "refusal": None, "tool_calls": [{"id": "a"}]}
    body = json.dumps({"choices": [{"message": message}], "usage": None}).encode()

    facts = read_answer(body)

    assert (facts.usage, facts.finish_reason) == (None, "")
    assert facts.answer_bytes == 2 + len('[{"id":"a"}]')
    odd = b'{"choices":[{"message":3}]}'
    assert read_answer(odd).answer_bytes == len(odd)


def test_read_answer_takes_embeddings() -> None:
    facts = read_answer(b'{"data":[{"embedding":[1e-5]}],"model":"e","usage":{"prompt_tokens":2}}')

    assert facts.usage == Usage(2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"choices":null}',
        b'{"error":{"message":"x"},"choices":[]}',
        b'{"choices":3}',
        b'{"a":' * 50_000,
    ],
)
def test_read_answer_refuses_what_is_no_answer(body: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        read_answer(body)
    assert isinstance(caught.value.error, Unavailable)
    assert caught.value.error.reason == "PROVIDER_FAILED"


def test_watch_passes_events_as_they_came_until_the_answer_finishes() -> None:
    watched = watch()
    comment = Event(b": ping\n\n", None)

    assert watched.take(comment) == comment.raw
    assert not watched.started
    assert watched.take(event(ROLE)) == event(ROLE).raw
    assert watched.started
    assert watched.take(event(WORD)) == event(WORD).raw
    assert watched.take(event(FINISH)) == b""
    assert watched.take(comment) == b""
    assert watched.take(event(USAGE)) == b""
    assert not watched.done
    assert watched.take(DONE) == b""
    assert watched.done
    assert watched.ending == event(FINISH).raw + event(USAGE).raw + DONE.raw
    assert watched.facts.usage == Usage(3, 2)
    assert (watched.facts.model, watched.facts.finish_reason) == ("m-1", "stop")
    assert watched.facts.answer_bytes == len("hello")


def test_watch_takes_out_the_usage_that_the_client_did_not_ask_for() -> None:
    watched = watch(usage_added=True)
    for step in (event(ROLE), event(FINISH), event(USAGE), DONE):
        watched.take(step)

    assert watched.ending == event(FINISH).raw + DONE.raw
    assert watched.facts.usage == Usage(3, 2)


def test_watch_takes_out_usage_alone_and_never_content() -> None:
    watched = watch(usage_added=True)

    assert watched.take(event({**WORD, "usage": USAGE["usage"]})) != b""
    assert watched.take(event(USAGE)) == b""


def test_watch_takes_choices_without_a_delta() -> None:
    odd = event({"choices": [{"index": 0, "content_filter_results": {}}], "usage": None})

    assert watch().take(odd) == odd.raw


def test_watch_waits_for_every_choice() -> None:
    watched = watch(2)
    other = {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]}

    assert watched.take(event(FINISH)) == event(FINISH).raw
    assert watched.take(event(other)) == b""
    watched.take(DONE)
    assert watched.ending == event(other).raw + DONE.raw


@pytest.mark.parametrize(
    "bad",
    ['{"choices"', "3", '{"choices":[{"index":"x"}]}', '{"error":{"message":"x"}}', "[DONE]"],
)
def test_watch_refuses_what_is_no_part_of_an_answer(bad: str) -> None:
    watched = watch()
    watched.take(event(ROLE))

    with pytest.raises(ProviderError) as caught:
        watched.take(event(bad))
    assert caught.value.error.reason == "PROVIDER_FAILED"
    assert not watched.done


def test_watch_holds_no_more_than_it_must() -> None:
    watched = watch()
    watched.take(event(FINISH))

    with pytest.raises(ProviderError, match="goes on"):
        watched.take(event({"choices": [], "x": "y" * MAX_HELD_BYTES}))


@pytest.mark.parametrize("count", [10**17, 1e300, -1, -1e300, 2**40 + 1, 0.5])
@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_cannot_be_true_is_no_count(field: str, count: float) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2, field: count}
    answer = {"choices": [{"message": {"content": "12345"}, "finish_reason": "stop"}]}

    whole = read_answer(json.dumps(answer | {"usage": usage}).encode())
    streamed = watch()
    for value in (WORD, FINISH, {"choices": [], "usage": usage}, "[DONE]"):
        streamed.take(event(value))

    for facts in (whole, streamed.facts):
        assert (facts.usage, facts.answer_bytes) == (None, 5)
        assert counted(facts, b'{"prompt":"abcd"}') == Usage(1, 2, estimated=True)


def test_a_detail_that_cannot_be_true_is_left_out() -> None:
    usage = {
        "prompt_tokens": 2**40,
        "completion_tokens": 2.0,
        "prompt_tokens_details": {"cached_tokens": 1e300, "cache_write_tokens": -1},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }

    facts = read_answer(json.dumps({"choices": [], "usage": usage}).encode())

    assert facts.usage == Usage(2**40, 2, reasoning_tokens=1)
