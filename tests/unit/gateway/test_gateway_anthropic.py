"""Anthropic's messages and OpenAI's responses as the gateway reads them, and their errors."""

import json
from typing import Any

import pytest

from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    WeaverError,
)
from services.gateway import anthropic, responses
from services.gateway.body import prompt_tokens, text_tokens
from services.gateway.ports import ModelInfo

HELLO = [{"role": "user", "content": "Hello"}]
MESSAGE: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": HELLO}
RESPONSE: dict[str, Any] = {"model": "m", "input": "Hello"}


def encoded(base: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps(base | fields).encode()


def test_a_message_passes_byte_for_byte() -> None:
    body = b'{ "max_tokens":5e1,"model":"m", "new":1.0,"messages":[{"role":"user"}],"stream":true}'
    ask = anthropic.messages(body, 100)
    assert ask.body is body
    assert (ask.model, ask.stream, ask.output_tokens) == ("m", True, 50)


def test_tokens_of_a_message_are_capped_in_place() -> None:
    ask = anthropic.messages(encoded(MESSAGE, max_tokens=5000, note={"max_tokens": 5000}), 100)
    assert ask.output_tokens == 100
    body = json.loads(ask.body)
    assert (body["max_tokens"], body["note"]["max_tokens"]) == (100, 5000)


def test_a_prompt_may_be_cached_without_an_answer() -> None:
    assert anthropic.messages(encoded(MESSAGE, max_tokens=0), 100).output_tokens == 0


def test_a_budget_of_thinking_that_the_cap_leaves_no_room_for_is_refused() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2000}
    with pytest.raises(InvalidArgument) as caught:
        anthropic.messages(encoded(MESSAGE, max_tokens=4000, thinking=thinking), 1000)
    assert caught.value.violations[0].field == "thinking.budget_tokens"
    assert anthropic.messages(encoded(MESSAGE, max_tokens=4000, thinking=thinking), 3000).model


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": ""}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool"}]}, "messages[0].role"),
        ({"messages": [{}]}, "messages[0].role"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": "1"}, "max_tokens"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_a_wrong_field_of_a_message_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        anthropic.messages(encoded(MESSAGE, **fields), 100)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize("missing", ["model", "messages", "max_tokens"])
def test_a_missing_field_of_a_message_is_named(missing: str) -> None:
    body = {name: value for name, value in MESSAGE.items() if name != missing}
    with pytest.raises(InvalidArgument) as caught:
        anthropic.messages(json.dumps(body).encode(), 100)
    assert caught.value.violations[0].field == missing


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","model":"n","max_tokens":5,"messages":[{"role":"user"}]}',
        b'{"model":"m","max\\u005ftokens":5,"max_tokens":5,"messages":[{"role":"user"}]}',
    ],
)
def test_a_field_that_decides_stands_once_and_plain(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        anthropic.messages(body, 100)


def test_a_count_of_tokens_uses_none() -> None:
    ask = anthropic.count_tokens(encoded({"model": "m", "messages": HELLO}, stream=True), 100)
    assert (ask.stream, ask.input_tokens, ask.output_tokens) == (False, 0, 0)
    with pytest.raises(InvalidArgument):
        anthropic.count_tokens(b'{"model":"m","messages":[]}', 100)


def test_a_response_passes_and_its_tokens_are_capped() -> None:
    body = b'{"model":"m", "input":[ ],"max_output_tokens":1e1}'
    assert responses.responses(body, 100).body is body
    ask = responses.responses(encoded(RESPONSE, max_output_tokens=5000, stream=True), 100)
    assert (ask.stream, ask.output_tokens) == (True, 100)
    assert json.loads(ask.body)["max_output_tokens"] == 100
    assert responses.responses(b'{"model":"m","prompt":{"id":"p"}}', 100).output_tokens == 100


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"model": ""}, "model"),
        ({"input": 3}, "input"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": 1}, "stream"),
    ],
)
def test_a_wrong_field_of_a_response_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        responses.responses(encoded(RESPONSE, **fields), 100)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidArgument("x"), "invalid_request_error"),
        (Unauthenticated("x"), "authentication_error"),
        (NotFound("x"), "not_found_error"),
        (ResourceExhausted("x"), "rate_limit_error"),
        (Unavailable("x"), "overloaded_error"),
        (Unavailable("x", reason="PROVIDER_FAILED"), "api_error"),
        (DeadlineExceeded("x"), "timeout_error"),
        (WeaverError("x"), "api_error"),
    ],
)
def test_errors_have_anthropics_shape(error: WeaverError, kind: str) -> None:
    body = json.loads(anthropic.error_body(error, "r-1"))
    assert body == {
        "type": "error",
        "error": {"type": kind, "message": "x"},
        "request_id": "r-1",
    }


def test_an_error_fits_into_a_header() -> None:
    body = anthropic.error_body(InvalidArgument("ü" * 5000), "r-1")
    assert len(body) <= 4096
    assert body.isascii()


def test_a_providers_own_error_passes_in_anthropics_shape_alone() -> None:
    own = '{"type":"error","error":{"type":"x","message":"y"}}'
    error = InvalidArgument("z", metadata={"vendor_body": own})
    assert anthropic.error_body(error, "r-1") == own.encode()
    foreign = InvalidArgument("z", metadata={"vendor_body": '{"error":{"message":"y"}}'})
    assert json.loads(anthropic.error_body(foreign, "r-1"))["error"]["message"] == "z"


def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    event = anthropic.error_event(Unavailable("x"), "r-1")
    assert event.startswith(b'event: error\ndata: {"type":"error"')
    assert event.endswith(b"}\n\n")
    event = responses.error_event(Unavailable("x"), "r-1")
    data = json.loads(event.removeprefix(b"event: error\ndata: "))
    assert data["type"] == "error"
    assert data["message"] == data["error"]["message"] == "x (request id r-1)"
    strange = InvalidArgument("z", metadata={"vendor_body": '{"error":"y"}'})
    assert b'"message":"z"' in responses.error_event(strange, "r-1")


def test_models_are_listed_as_anthropic_lists_them() -> None:
    page = json.loads(anthropic.model_list([ModelInfo("a", "p", 5, 0, 0, 0, 86_400)]))
    assert page == {
        "data": [
            {
                "type": "model",
                "id": "a",
                "display_name": "a",
                "created_at": "1970-01-02T00:00:00Z",
                "lifecycle": "active",
                "max_input_tokens": 5,
                "max_tokens": None,
            }
        ],
        "has_more": False,
        "first_id": "a",
        "last_id": "a",
    }
    assert json.loads(anthropic.model_list([]))["first_id"] is None


def test_a_file_does_not_count_as_text() -> None:
    image = "A" * 4_000_000
    body = encoded(MESSAGE, image=f"data:image/png;base64,{image}")
    assert 4096 <= prompt_tokens(body) < 4200
    assert prompt_tokens(encoded(MESSAGE, data="JVBERi" + image)) > 200_000
    assert prompt_tokens(encoded(MESSAGE, text="A b" * 100_000)) > 70_000
    assert text_tokens(body) < 20
    assert text_tokens(encoded({"messages": [{"content": "a" * 400}]})) == 100
