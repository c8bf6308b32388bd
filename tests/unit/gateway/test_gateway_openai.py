"""OpenAI's JSON: what is read, what is refused and how it is said."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    WeaverError,
)
from services.gateway import openai
from services.gateway.ascii_json import MAX_ERROR_BODY
from services.gateway.ports import ModelInfo


def chat(**fields: object) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": [{"role": "user"}], **fields})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "model"),
        (b'{"model":"m"}', "messages"),
        (b"[]", "body"),
        (chat(model=""), "model"),
        (chat(model=3), "model"),
        (chat(messages=[]), "messages"),
        (chat(messages={}), "messages"),
        (chat(messages=[{"role": "user"}, {"role": "robot"}]), "messages[1].role"),
        (chat(messages=[{"content": "x"}]), "messages[0].role"),
        (chat(max_tokens=0), "max_tokens"),
        (chat(max_tokens=1.5), "max_tokens"),
        (chat(max_completion_tokens="9"), "max_completion_tokens"),
        (chat(n=0), "n"),
        (chat(n=1000), "n"),
        (chat(stream="yes"), "stream"),
        (chat(stream_options={}), "stream_options"),
    ],
)
def test_a_wrong_field_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        openai.chat(body, 100)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert field in caught.value.message


@given(st.binary(max_size=64))
def test_bad_input_gets_a_clear_answer(body: bytes) -> None:
    """Promise 8: never a 500, whatever the bytes."""
    with pytest.raises(InvalidArgument) as caught:
        openai.chat(body, 100)
    assert openai.error_body(caught.value, "r").isascii()


def test_deeply_nested_json_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        openai.chat(b'{"a":' + b"[" * 100_000, 100)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"evil","model":"m","messages":[{"role":"user"}]}', "model"),
        (
            b'{"model":"m","max_tokens":9999999,"max_tokens":5,"messages":[{"role":"user"}]}',
            "max_tokens",
        ),
        (b'{"model":"m","max\\u005ftokens":9999999,"messages":[{"role":"user"}]}', "max_tokens"),
        (b'{"model":"m","stream":false,"stream":true,"messages":[{"role":"user"}]}', "stream"),
    ],
)
def test_what_a_provider_could_read_in_another_way_is_refused(body: bytes, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        openai.chat(body, 100)
    assert caught.value.violations[0].field == field


def test_a_name_may_stand_again_below() -> None:
    body = (
        b'{"model":"m","tools":[{"model":"x","n":1,"stream":"\\u00fc"}],"metadata":{"model":"y"},'
        b'"n":1,"messages":[{"role":"user"}]}'
    )
    assert openai.chat(body, 100).model == "m"


@pytest.mark.parametrize("body", [b'{"model":"m","x":"\xff","messages":[{"role":"user"}]}'])
def test_a_body_must_be_utf8(body: bytes) -> None:
    with pytest.raises(InvalidArgument, match="UTF-8"):
        openai.chat(body, 100)


def test_unknown_fields_and_odd_numbers_pass_untouched() -> None:
    body = b'{"model":"m","x":{"y":[1e5]},"max_tokens":1e1,"n":1.0,"messages":[{"role":"user"}]}'
    ask = openai.chat(body, 100)
    assert ask.body is body
    assert ask.output_tokens == 10


def test_numbers_above_the_cap_are_replaced_and_nothing_else() -> None:
    body = (
        b'{ "max_tokens" : 9e3, "x":{"max_tokens":9000}, "s":"\\"max_tokens\\": 9000",'
        b' "max_completion_tokens":5000.0,"model":"m","messages":[{"role":"user"}]}'
    )
    ask = openai.chat(body, 100)
    assert ask.body == body.replace(b": 9e3,", b": 100,").replace(b":5000.0", b":100")
    assert ask.output_tokens == 100


def test_a_body_that_asks_for_no_bound_is_bounded_by_the_cap() -> None:
    assert openai.chat(chat(n=3), 100).output_tokens == 300


@pytest.mark.parametrize("value", ["text", ["a", "b"], [[1, 2]]])
def test_embeddings_are_read(value: object) -> None:
    body = msgspec.json.encode({"model": "m", "input": value})
    assert openai.embeddings(body, 1).model == "m"


def test_embeddings_need_an_input() -> None:
    for body in (b'{"model":"m"}', b'{"model":"m","input":5}'):
        with pytest.raises(InvalidArgument):
            openai.embeddings(body, 1)


@pytest.mark.parametrize(
    ("error", "kind", "code", "param"),
    [
        (Unauthenticated("no"), "invalid_request_error", "invalid_api_key", None),
        (
            NotFound("no", reason="MODEL_NOT_FOUND"),
            "invalid_request_error",
            "model_not_found",
            "model",
        ),
        (
            InvalidArgument("no", violations=(FieldViolation("n", "must"),)),
            "invalid_request_error",
            "invalid_request",
            "n",
        ),
        (ResourceExhausted("no"), "rate_limit_error", "rate_limit_exceeded", None),
        (
            Unavailable("no", reason="PROVIDER_FAILED"),
            "server_error",
            "provider_failed",
            None,
        ),
        (DeadlineExceeded("no"), "server_error", "deadline_exceeded", None),
    ],
)
def test_errors_have_the_vendors_shape(
    error: WeaverError, kind: str, code: str, param: str | None
) -> None:
    body = msgspec.json.decode(openai.error_body(error, "req-9"))["error"]
    assert (body["type"], body["code"], body["param"]) == (kind, code, param)
    assert ("req-9" in body["message"]) == (kind == "server_error")


@given(st.text(max_size=9000), st.text(max_size=9000))
def test_an_error_body_is_short_ascii_json(message: str, field: str) -> None:
    error = InvalidArgument(message, violations=(FieldViolation(field, "x"),))
    body = openai.error_body(error, "r")
    assert body.isascii()
    assert len(body) <= MAX_ERROR_BODY
    msgspec.json.decode(body)


def test_a_providers_own_error_body_passes() -> None:
    vendor = '{"error":{"message":"context too long","code":"context_length_exceeded"}}'
    error = InvalidArgument("x", metadata={"vendor_body": vendor})
    assert openai.error_body(error, "r") == vendor.encode()
    assert openai.error_event(error, "r") == b"data: " + vendor.encode() + b"\n\n"


def test_models_are_listed_as_the_vendor_does() -> None:
    listed = msgspec.json.decode(openai.model_list([ModelInfo("m", "stub", 0, 0, 0, 0, 5)]))
    assert listed == {
        "object": "list",
        "data": [{"id": "m", "object": "model", "created": 5, "owned_by": "stub"}],
    }
