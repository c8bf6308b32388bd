"""Personal data in streams of messages and responses, wherever their pieces are cut."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Unavailable
from services.gateway.event_redaction import EventRedactor, MessageRedactor, ResponseRedactor
from services.gateway.redaction import Redactor
from tests.fakes.recordings import anthropic_stream, response_stream

SECRETS = "a.b@c.de, 4111 1111 1111 1111 and +49 30 901820."


def sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def delta(kind: str, field: str, text: str, index: int = 0) -> bytes:
    return sse("content_block_delta", index=index, delta={"type": kind, field: text})


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.split(b"data: ")[1]) for event in body.split(b"\n\n") if event]


def said(body: bytes, field: str) -> str:
    found = (event.get("delta") for event in events(body))
    return "".join(piece.get(field, "") for piece in found if isinstance(piece, dict))


def redacted(redactor: EventRedactor, *pieces: bytes) -> bytes:
    return b"".join(redactor.events(piece) for piece in pieces)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("text_delta", "text"),
        ("thinking_delta", "thinking"),
        ("input_json_delta", "partial_json"),
    ],
)
def test_a_secret_cut_in_two_does_not_pass(kind: str, field: str) -> None:
    body = redacted(
        MessageRedactor(Redactor()),
        delta(kind, field, "mail a.b@"),
        delta(kind, field, "c.de now"),
        sse("content_block_stop", index=0),
    )
    assert said(body, field) == "mail [EMAIL_1] now"
    assert [event["type"] for event in events(body)][-1] == "content_block_stop"


@given(st.lists(st.integers(0, len(SECRETS)), max_size=8))
def test_no_cut_lets_a_secret_pass(cuts: list[int]) -> None:
    at = sorted({0, len(SECRETS), *cuts})
    pieces = [SECRETS[start:end] for start, end in itertools.pairwise(at)]
    expected = Redactor().text(SECRETS)
    message = redacted(
        MessageRedactor(Redactor()),
        *(delta("text_delta", "text", piece) for piece in pieces),
        sse("content_block_stop", index=0),
    )
    assert said(message, "text") == expected
    response = redacted(
        ResponseRedactor(Redactor()),
        *(sse("response.output_text.delta", item_id="i", delta=piece) for piece in pieces),
        sse("response.output_text.done", item_id="i", text=SECRETS),
    )
    found = events(response)
    texts = [event["delta"] for event in found if event["type"].endswith("delta")]
    assert ("".join(texts), found[-1]["text"]) == (expected, expected)


def test_blocks_do_not_mix() -> None:
    body = redacted(
        MessageRedactor(Redactor()),
        delta("text_delta", "text", "a.b@", 0),
        delta("input_json_delta", "partial_json", "c.de", 1),
        sse("content_block_stop", index=1),
        sse("content_block_stop", index=0),
    )
    assert said(body, "text") == "a.b@"
    assert said(body, "partial_json") == "c.de"


def test_nothing_is_lost_when_a_block_is_not_closed() -> None:
    body = redacted(
        MessageRedactor(Redactor()),
        delta("text_delta", "text", "word"),
        sse("message_delta", delta={"stop_reason": "end_turn"}),
    )
    assert said(body, "text") == "word"
    body = redacted(
        ResponseRedactor(Redactor()),
        sse("response.output_text.delta", item_id="i", delta="word"),
        sse("response.completed", response={}),
    )
    assert [event["type"] for event in events(body)] == [
        "response.output_text.delta",
        "response.completed",
    ]


def test_signatures_pass_as_they_are() -> None:
    signature = delta("signature_delta", "signature", "a.b@c.de")
    assert MessageRedactor(Redactor()).events(signature) == signature


@pytest.mark.parametrize("body", [anthropic_stream(), response_stream()])
def test_a_stream_without_secrets_says_the_same(body: bytes) -> None:
    for redactor in (MessageRedactor(Redactor()), ResponseRedactor(Redactor())):
        found = redactor.events(body)
        for field in ("text", "partial_json", "thinking"):
            assert said(found, field) == said(body, field)
        assert events(found)[-1] == events(body)[-1]


def test_what_is_no_text_passes_byte_for_byte() -> None:
    raws = (
        b": keep-alive\n\n",
        b"event: ping\ndata: { }\n\n",
        sse("message_start", message={"id": "m"}),
        sse("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        sse("response.audio.delta", delta="QUJD"),
    )
    for raw in raws:
        assert MessageRedactor(Redactor()).events(raw) == raw
        assert ResponseRedactor(Redactor()).events(raw) == raw


def test_secrets_outside_of_pieces_do_not_pass() -> None:
    body = redacted(
        MessageRedactor(Redactor()),
        b": from a.b@c.de\n\n",
        b"data: not json a.b@c.de\n\n",
        sse("content_block_start", index=0, content_block={"type": "text", "text": "a.b@c.de"}),
    )
    assert b"a.b@c.de" not in body
    assert body.count(b"[EMAIL_1]") == 3


def test_log_probabilities_do_not_spell_what_was_changed() -> None:
    spelled = [{"token": "a.b@c", "logprob": -1}]
    pieces = (
        sse("response.output_text.delta", item_id="i", delta="x a.b@c.de y", logprobs=spelled),
        sse("response.output_text.done", item_id="i", text="x a.b@c.de y", logprobs=spelled),
    )
    body = redacted(ResponseRedactor(Redactor()), *pieces)
    assert b"a.b@c" not in body
    assert all(event["logprobs"] == [] for event in events(body))


def test_an_answer_that_cannot_be_read_is_the_providers_failure() -> None:
    nested = b"[" * 600 + b"]" * 600
    for odd in (b'"\xff"', nested):
        with pytest.raises(Unavailable) as caught:
            Redactor().answer(b'{"a":"a.b@c.de","logprobs":{},"x":%b}' % odd)
        assert caught.value.reason == "PROVIDER_FAILED"


def test_a_file_and_a_signature_in_base64_are_left_alone() -> None:
    blob = "A/4111111111111111/" * 10
    body = json.dumps({"data": blob, "encrypted_content": "gAAAA" + "b_4-" * 30}).encode()
    assert Redactor().json(body) is body
    short = json.dumps({"data": "x 4111111111111111"}).encode()
    assert b"[CARD_1]" in Redactor().json(short)
