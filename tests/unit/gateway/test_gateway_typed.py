"""Typed answers: whatever a provider sent, the recorded answer is handed over."""

import json

import pytest

from services.gateway import typed

PARTS = [
    {"type": "thinking", "thinking": [{"text": "no"}]},
    {"type": "text", "text": "a"},
    "odd",
    {"type": "text", "text": 1},
    {"type": "text", "text": "b"},
]


@pytest.mark.parametrize(
    ("content", "text"),
    [("hi", "hi"), (None, ""), ("", ""), (PARTS, "ab"), ([], ""), (3, ""), ({"text": "no"}, "")],
)
def test_content_of_any_shape_is_read(content: object, text: str) -> None:
    said = {"content": content, "role": 1}
    whole = json.dumps({"choices": [{"message": said, "finish_reason": 1}]}).encode()
    event = json.dumps({"choices": [{"delta": said}]}).encode()

    assert typed.answer_text(whole) == text
    assert "".join(typed.text_deltas(b"data: " + event + b"\n\n")) == text


@pytest.mark.parametrize(
    "odd",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'"\xff"',
        b"",
        b'{"choices":null}',
        b'{"choices":[]}',
        b'{"choices":[3]}',
        b'{"choices":[{"message":3,"delta":"x"}]}',
        b'{"choices":[{"message":null,"delta":null}]}',
        b'{"choices":[{"message":{"content":"\xff"},"delta":{"content":"\xff"}}]}',
        b"[" * 100_000,
    ],
)
def test_what_cannot_be_read_has_no_text_and_is_no_error(odd: bytes) -> None:
    good = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    events = b": ping\n\n" + good + b"data: " + odd + b"\n\n" + good + b"data: [DONE]\n\n"

    assert typed.answer_text(odd) == ""
    assert list(typed.text_deltas(events)) == ["x", "x"]
