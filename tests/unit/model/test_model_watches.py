"""Whatever a provider sends is understood, or is called the provider's failure."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model import anthropic_messages, openai_chat, openai_responses
from services.model.call import Facts
from services.model.event_stream import Watch
from services.model.failure import ProviderError
from services.model.openai_chat import StreamPlan
from services.model.sse import Parser, SSEError
from tests.fakes.recordings import anthropic_stream, openai_stream, response_stream

WATCHES: dict[str, Callable[[], Watch]] = {
    "anthropic": anthropic_messages.StreamWatch,
    "openai": lambda: openai_chat.StreamWatch(StreamPlan(b"", 1, usage_added=False)),
    "responses": openai_responses.StreamWatch,
}
STREAMS = {
    "anthropic": anthropic_stream(),
    "openai": openai_stream(),
    "responses": response_stream(),
}
READERS = [
    anthropic_messages.read_answer,
    anthropic_messages.read_count,
    openai_chat.read_answer,
    openai_responses.read_answer,
]
NAMES = (
    "type message usage delta error content model stop_reason choices finish_reason response status"
)
TYPES = [
    "message",
    "message_start",
    "message_delta",
    "message_stop",
    "response.completed",
    "response.created",
    "text_delta",
    "end_turn",
    "stop",
]
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(TYPES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES.split()), inner, max_size=5)
    ),
    max_leaves=15,
)


def watched(watch: Watch, body: bytes) -> bytes:
    """Return what passes, the ending included; a failure ends it."""
    passed = []
    try:
        for event in Parser().feed(body):
            passed.append(watch.take(event))
            assert isinstance(watch.facts, Facts)
            if watch.done:
                passed.append(watch.ending)
                break
    except (ProviderError, SSEError):
        assert not watch.done
    return b"".join(passed)


@pytest.mark.parametrize("name", WATCHES)
@given(st.lists(VALUE, max_size=6))
def test_no_event_breaks_a_watch(name: str, values: list[Any]) -> None:
    body = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    watched(WATCHES[name](), body)


@pytest.mark.parametrize("name", WATCHES)
@given(st.binary(max_size=64), st.integers(0, 4000))
def test_no_bytes_break_a_watch(name: str, noise: bytes, at: int) -> None:
    body = STREAMS[name]
    watched(WATCHES[name](), body[:at] + noise + body[at:])


@pytest.mark.parametrize("name", WATCHES)
@given(st.integers(0, 6000))
def test_a_stream_that_is_cut_anywhere_is_not_done(name: str, at: int) -> None:
    """And nothing that says that it is complete has passed."""
    body = STREAMS[name]
    watch = WATCHES[name]()
    passed = watched(watch, body[:at])
    if at < len(body):
        assert not watch.done
        assert passed == body[: len(passed)]
        for end in (b'"stop_reason": "tool_use"', b'"finish_reason": "tool_calls"', b"completed}"):
            assert end not in passed
    else:
        assert passed == body


@pytest.mark.parametrize("read", READERS)
@given(VALUE | st.binary(max_size=32))
def test_no_answer_breaks_a_reader(read: Callable[[bytes], Facts], value: Any) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    try:
        facts = read(body)
    except ProviderError:
        return
    assert isinstance(facts, Facts)
