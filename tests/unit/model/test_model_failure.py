"""What a provider's failure becomes."""

import json

import pytest

from services.common.errors import DeadlineExceeded, InvalidArgument, ResourceExhausted, Unavailable
from services.model import failure
from services.model.failure import VENDOR_BODY_LIMIT, from_status, retry_after_s, vendor_body

BODY = b'{"error":{"message":"bad temperature","type":"invalid_request_error"}}'


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_rejection_passes_on_the_providers_words(status: int) -> None:
    failed = from_status(status, {}, BODY, now=0)

    assert isinstance(failed.error, InvalidArgument)
    assert failed.error.reason == "PROVIDER_REJECTED"
    assert failed.error.message == "bad temperature"
    assert failed.error.metadata == {"http_status": str(status), "vendor_body": BODY.decode()}
    assert not failed.retryable


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error":"no"}', b'{"x":1}'])
def test_a_rejection_without_an_error_object_still_has_a_sentence(body: bytes) -> None:
    assert from_status(400, {}, body, now=0).error.message


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_the_gateways_fault_and_not_tried_again(status: int) -> None:
    failed = from_status(status, {}, BODY, now=0)

    assert isinstance(failed.error, Unavailable)
    assert failed.error.metadata == {"http_status": "502"}
    assert "bad temperature" not in failed.error.message
    assert not failed.retryable


def test_throttling_says_when_to_return() -> None:
    failed = from_status(429, {"retry-after": "7"}, b"{}", now=0)

    assert isinstance(failed.error, ResourceExhausted)
    assert (failed.error.reason, failed.error.retry_after_s) == ("PROVIDER_THROTTLED", 7)
    assert failed.retryable


def test_used_up_quota_is_not_tried_again() -> None:
    assert not from_status(429, {}, b'{"error":{"code":"insufficient_quota"}}', now=0).retryable


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(408, True), (409, True), (500, True), (503, True), (302, False), (402, False), (418, False)],
)
def test_other_statuses_are_the_providers_failure(status: int, retryable: bool) -> None:
    failed = from_status(status, {}, b"", now=0)

    assert isinstance(failed.error, Unavailable)
    assert failed.error.reason == "PROVIDER_FAILED"
    assert (failed.http_status, failed.retryable) == (status, retryable)


def test_a_failing_provider_may_say_when_to_return() -> None:
    assert from_status(503, {"retry-after": "3"}, b"", now=0).error.retry_after_s == 3


def test_silence_is_a_deadline() -> None:
    assert isinstance(failure.timed_out("x").error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("1.5", 1.5),
        ("Fri, 15 Jan 2027 08:00:10 GMT", 10),
        ("Fri, 15 Jan 2020 08:00:10 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("9" * 400, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, now=1_800_000_000) == seconds


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"no such model","error_type":"validation"}', "no such model"),
        (
            b'{"object":"error","message":"too long","type":"BadRequestError","code":400}',
            "too long",
        ),
        (b'{"detail":"not here"}', "not here"),
        (
            b'{"detail":[{"loc":["body","messages",0],"msg":"field required"},{"msg":"odd"},7]}',
            "messages.0: field required; odd",
        ),
    ],
)
def test_a_rejection_in_no_vendors_shape_gets_the_shape_that_sdks_read(
    body: bytes, message: str
) -> None:
    error = from_status(400, {}, body, now=0).error

    assert error.message == message
    assert json.loads(error.metadata["vendor_body"]) == {
        "error": {
            "message": message,
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
    }


@pytest.mark.parametrize(
    "body", [b'{"error":7}', b'{"detail":[]}', b'{"detail":[{"msg":7}]}', b'{"x":1}', b"{}"]
)
def test_a_rejection_without_a_sentence_passes_nothing_on(body: bytes) -> None:
    assert vendor_body(body) == ""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2),
    ],
)
def test_a_wait_in_milliseconds_is_more_exact(headers: dict[str, str], seconds: float) -> None:
    assert from_status(429, headers, b"{}", now=0).error.retry_after_s == seconds


def test_vendor_body_is_ascii() -> None:
    assert vendor_body('{"error":{"message":"é"}}'.encode()) == '{"error":{"message":"\\u00e9"}}'


def test_vendor_body_is_cut_to_what_metadata_can_carry() -> None:
    long = {"error": {"message": "é" * 9000, "type": "t", "code": 7, "inner": "x" * 9000}}

    shown = vendor_body(json.dumps(long).encode())

    assert len(shown) <= VENDOR_BODY_LIMIT
    assert json.loads(shown)["error"]["type"] == "t"
    assert json.loads(vendor_body(json.dumps({"detail": "x" * 9000}).encode()))["error"]


def test_vendor_body_never_shows_the_provider_key() -> None:
    shown = from_status(400, {}, b'{"error":{"message":"sk-1 is odd"}}', secret="sk-1", now=0)

    assert "sk-1" not in str(shown.error.metadata) + shown.error.message
