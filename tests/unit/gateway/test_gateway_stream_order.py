"""What is held back of a stream is released before what follows it, as clients expect."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.closing import Closing
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText
from services.gateway.stream_redaction import StreamRedactor

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def event(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "choices": [choice]}).encode() + b"\n\n"


def call(index: int, arguments: str, **more: str) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments, **more}}


def seen(*events: bytes) -> list[dict[str, Any]]:
    """Return the deltas that a client sees, in order."""
    redactor = StreamRedactor(Redactor())
    body = b"".join(map(redactor.events, events))
    chunks = [json.loads(line[5:]) for line in body.split(b"\n\n") if line]
    return [chunk["choices"][0]["delta"] for chunk in chunks]


def test_the_arguments_of_a_tool_are_whole_before_the_next_tool_is_called() -> None:
    """OpenAI's client takes arguments for complete when another call begins."""
    known: dict[int, str] = {}
    for delta in seen(
        event(tool_calls=[call(0, "", name="w")]),
        event(tool_calls=[call(0, '{"city"')]),
        event(tool_calls=[call(0, ': "Ulm"}')]),
        event(tool_calls=[call(1, "", name="w")]),
        event(tool_calls=[call(1, '{"city": "K')]),
        event(tool_calls=[call(1, 'öln"}')]),
        event("tool_calls"),
    ):
        for tool in delta.get("tool_calls", ()):
            if tool["index"] == 1:
                assert known[0] == '{"city": "Ulm"}'
            known[tool["index"]] = known.get(tool["index"], "") + tool["function"]["arguments"]
    assert known[1] == '{"city": "Köln"}'


def test_a_text_is_whole_before_a_tool_is_called() -> None:
    said = ""
    for delta in seen(
        event(content="Let me lo"),
        event(content="ok."),
        event(tool_calls=[call(0, "{}", name="w")]),
        event("tool_calls"),
    ):
        if "tool_calls" in delta:
            assert said == "Let me look."
        said += delta.get("content", "")
    assert said == "Let me look."


def test_what_is_personal_is_found_although_a_tool_follows() -> None:
    body = json.dumps(
        seen(
            event(content="Ask bob@exam"),
            event(content="ple.com"),
            event(tool_calls=[call(0, '{"to":"bob@exa')]),
            event(tool_calls=[call(1, '{"to":"bob@exam')]),
            event(tool_calls=[call(0, 'mple.com"}')]),
            event(tool_calls=[call(1, 'ple.com"}')]),
            event("tool_calls"),
        )
    )
    assert "example" not in body
    assert "bob@" not in body


@given(
    value=st.dictionaries(st.text(max_size=4), JSON, max_size=3),
    ascii_only=st.booleans(),
    cuts=st.data(),
)
def test_arguments_are_complete_with_their_last_bracket_and_not_before(
    value: dict[str, Any], ascii_only: bool, cuts: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    places = sorted(cuts.draw(st.sets(st.integers(1, len(text) - 1), max_size=6)))
    closing, running, released = Closing(), RunningText(Redactor(), arguments=True), ""
    for start, end in zip([0, *places], [*places, len(text)], strict=True):
        released += running.feed(text[start:end])
        assert closing.feed(text[start:end]) is (end == len(text))
    assert released == Redactor().json(text.encode()).decode()
