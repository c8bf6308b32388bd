"""The table between errors and statuses, both ways."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata
from hypothesis import given
from hypothesis import strategies as st

from services.common import errors
from services.common.status import (
    DETAILS_KEY,
    INTERNAL_MESSAGE,
    TABLE,
    from_rpc_error,
    http_status,
    to_status,
)

KINDS = [kind for kind in TABLE if kind is not errors.Internal]
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def rpc_error(code: grpc.StatusCode, message: str = "", trailers: Any = ()) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(*trailers), message)


def round_trip(error: BaseException) -> errors.WeaverError:
    return from_rpc_error(rpc_error(*to_status(error, "request-1")))


def details_of(error: BaseException, request_id: str = "request-1") -> status_pb2.Status:
    _, _, trailers = to_status(error, request_id)
    return status_pb2.Status.FromString(dict(trailers)[DETAILS_KEY])


def unpacked(error: BaseException, kind: Any) -> Any:
    found = kind()
    return next((found for any_ in details_of(error).details if any_.Unpack(found)), None)


@st.composite
def sent_errors(draw: st.DrawFn) -> errors.WeaverError:
    return draw(st.sampled_from(KINDS))(
        draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=400)),
        reason=draw(st.from_regex(r"[A-Z][A-Z_]{0,40}", fullmatch=True)),
        retry_after_s=draw(st.none() | st.integers(0, 10**9).map(lambda ms: ms / 1000)),
        violations=tuple(draw(st.lists(st.builds(errors.FieldViolation, ASCII, TEXT), max_size=4))),
        metadata=draw(st.dictionaries(ASCII.filter(bool), TEXT, max_size=4)),
    )


@given(sent_errors())
def test_an_error_survives_the_wire(sent: errors.WeaverError) -> None:
    received = round_trip(sent)
    assert type(received) is type(sent)
    assert received.message == sent.message
    assert received.reason == sent.reason
    assert received.retry_after_s == sent.retry_after_s
    assert received.violations == sent.violations
    assert received.metadata == sent.metadata


@given(
    message=st.text(max_size=20_000),
    values=st.lists(st.text(max_size=5_000), max_size=30),
    request_id=st.text(max_size=300),
)
def test_whatever_an_error_holds_the_status_fits_into_metadata(
    message: str, values: list[str], request_id: str
) -> None:
    error = errors.InvalidArgument(
        message,
        metadata={f"quota{index or ''}": value for index, value in enumerate(values)},
        violations=tuple(errors.FieldViolation(value, value) for value in values),
    )
    _, text, trailers = to_status(error, request_id)
    assert len(text) <= 400
    assert all(" " <= char <= "~" for char in text)
    assert len(trailers[0][1]) < 5000


def test_every_type_has_a_row_of_its_own() -> None:
    kinds = {
        kind for kind in errors.WeaverError.__subclasses__() if kind.__module__ == errors.__name__
    }
    assert kinds == set(TABLE)
    codes = [code for code, _ in TABLE.values()]
    assert len(set(codes)) == len(codes)


def test_a_subclass_has_the_row_of_its_parent() -> None:
    class NoSuchModel(errors.NotFound):
        pass

    assert http_status(NoSuchModel("no")) == 404
    assert to_status(NoSuchModel("no"), "")[0] is grpc.StatusCode.NOT_FOUND


def test_the_bare_parent_is_internal() -> None:
    assert http_status(errors.WeaverError("x")) == 500


@pytest.mark.parametrize("error", [ValueError("secret"), errors.Internal("secret")])
def test_a_defect_tells_the_request_id_and_nothing_else(error: BaseException) -> None:
    code, message, trailers = to_status(error, "request-1")
    assert code is grpc.StatusCode.INTERNAL
    assert message == INTERNAL_MESSAGE
    assert b"secret" not in trailers[0][1]
    assert b"request-1" in trailers[0][1]
    assert round_trip(error).message == INTERNAL_MESSAGE
    assert http_status(error) == 500


def test_the_http_status_can_be_set_where_the_table_is_too_coarse() -> None:
    assert http_status(errors.InvalidArgument("big", metadata={"http_status": "413"})) == 413
    assert http_status(errors.InvalidArgument("big", metadata={"http_status": "²"})) == 400


def test_a_quota_is_named_in_its_own_detail() -> None:
    error = errors.ResourceExhausted("Too many.", metadata={"quota": "requests"}, retry_after_s=1.5)
    quota = unpacked(error, error_details_pb2.QuotaFailure)
    assert quota.violations[0].subject == "requests"
    retry = unpacked(error, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == 1500


def test_the_details_are_those_of_google_rpc() -> None:
    error = errors.InvalidArgument.of_field("messages[0].role", "is empty")
    info = unpacked(error, error_details_pb2.ErrorInfo)
    assert (info.domain, info.reason) == ("weaver", "INVALID_REQUEST")
    assert unpacked(error, error_details_pb2.RequestInfo).request_id == "request-1"
    fields = unpacked(error, error_details_pb2.BadRequest).field_violations
    assert [(field.field, field.description) for field in fields] == [
        ("messages[0].role", "is empty")
    ]
    assert details_of(error).message == error.message


def test_without_a_request_id_there_is_no_request_info() -> None:
    status = details_of(errors.NotFound("no"), request_id="")
    assert not any(detail.Is(error_details_pb2.RequestInfo.DESCRIPTOR) for detail in status.details)


@pytest.mark.parametrize("seconds", [float("inf"), 1e300])
def test_an_endless_wait_is_cut(seconds: float) -> None:
    assert round_trip(errors.Unavailable("later", retry_after_s=seconds)).retry_after_s == 1e7


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_senseless_wait_is_left_out(seconds: float) -> None:
    assert round_trip(errors.Unavailable("later", retry_after_s=seconds)).retry_after_s is None


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "OVERLOADED"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented, "UNIMPLEMENTED"),
        (grpc.StatusCode.CANCELLED, errors.Unavailable, "CANCELLED"),
        (grpc.StatusCode.ABORTED, errors.Unavailable, "OVERLOADED"),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.InvalidArgument, "INVALID_REQUEST"),
        (grpc.StatusCode.UNKNOWN, errors.Internal, "INTERNAL"),
        (grpc.StatusCode.DATA_LOSS, errors.Internal, "INTERNAL"),
    ],
)
def test_a_plain_code_becomes_the_nearest_type_without_its_text(
    code: Any, kind: type[errors.WeaverError], reason: str
) -> None:
    found = from_rpc_error(rpc_error(code, "connect to 10.0.0.7:8003 refused"))
    assert type(found) is kind
    assert found.reason == reason
    assert "10.0.0.7" not in found.message
    assert isinstance(found.__cause__, AioRpcError)


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff\xff",
        status_pb2.Status(code=5, message="theirs").SerializeToString(),
        "not bytes",
    ],
)
def test_details_that_are_not_ours_are_ignored(details: Any) -> None:
    error = rpc_error(grpc.StatusCode.NOT_FOUND, "theirs", ((DETAILS_KEY, details),))
    assert from_rpc_error(error).message == "Not found."


def test_details_of_another_domain_are_ignored() -> None:
    status = status_pb2.Status(code=5)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="X", domain="googleapis.com"))
    status.details.add().Pack(error_details_pb2.Help())
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    assert from_rpc_error(rpc_error(grpc.StatusCode.NOT_FOUND, "", trailers)).reason == "NOT_FOUND"


def test_a_vendors_error_of_three_kibibytes_survives_the_wire() -> None:
    sent = errors.InvalidArgument("m" * 200, metadata={"http_status": "422", "body": "x" * 3072})
    assert round_trip(sent).metadata == sent.metadata
    assert round_trip(sent).message == sent.message
