"""The one table between Weaver's errors, gRPC codes and HTTP statuses, in both directions.

A status carries `google.rpc` details, so that an error keeps its type, reason, fields and facts
over the wire. Anything that is not a `WeaverError` is INTERNAL and tells its caller nothing but
the request id.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WeaverError,
)

_NANOS: Final = 1_000_000_000
DOMAIN: Final = "weaver"
DETAILS_KEY: Final = "grpc-status-details-bin"
INTERNAL_MESSAGE: Final = "Internal error. Quote the request id."

TABLE: Final[Mapping[type[WeaverError], tuple[grpc.StatusCode, int]]] = {
    InvalidArgument: (grpc.StatusCode.INVALID_ARGUMENT, 400),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, 401),
    PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, 403),
    NotFound: (grpc.StatusCode.NOT_FOUND, 404),
    AlreadyExists: (grpc.StatusCode.ALREADY_EXISTS, 409),
    ResourceExhausted: (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    Internal: (grpc.StatusCode.INTERNAL, 500),
    Unimplemented: (grpc.StatusCode.UNIMPLEMENTED, 501),
    Unavailable: (grpc.StatusCode.UNAVAILABLE, 503),
    DeadlineExceeded: (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
}

_BY_CODE: Final[Mapping[grpc.StatusCode, type[WeaverError]]] = {
    code: kind for kind, (code, _) in TABLE.items()
}
# Codes that Weaver never sends, from proxies and libraries: the nearest type and a safe sentence.
_FOREIGN: Final[Mapping[grpc.StatusCode, tuple[type[WeaverError], str | None]]] = {
    grpc.StatusCode.CANCELLED: (Unavailable, "CANCELLED"),
    grpc.StatusCode.ABORTED: (Unavailable, None),
    grpc.StatusCode.FAILED_PRECONDITION: (InvalidArgument, None),
    grpc.StatusCode.OUT_OF_RANGE: (InvalidArgument, None),
}
_MESSAGES: Final[Mapping[type[WeaverError], str]] = {
    InvalidArgument: "The request was refused as malformed.",
    Unauthenticated: "The credential was refused.",
    PermissionDenied: "The call is not allowed.",
    NotFound: "Not found.",
    AlreadyExists: "It exists already.",
    ResourceExhausted: "A limit was reached.",
    Internal: INTERNAL_MESSAGE,
    Unimplemented: "Not served here.",
    Unavailable: "The service cannot be reached.",
    DeadlineExceeded: "The deadline passed.",
}
# A peer refuses metadata of more than 8 KiB altogether, and these go in base64: what is long is
# cut, and what does not fit any more is left out.
_DETAILS_BYTES: Final = 4096
_MESSAGE_LIMIT: Final = 400
_TEXT_LIMIT: Final = 256
_VIOLATIONS_LIMIT: Final = 8
_FACTS_BYTES: Final = 3400
_VIOLATIONS_BYTES: Final = 1536
_RETRY_LIMIT_S: Final = 10_000_000.0

Trailers = tuple[tuple[str, str | bytes], ...]


def http_status(error: BaseException) -> int:
    """Return the HTTP status for an error: the table's, unless its metadata say otherwise."""
    if not isinstance(error, WeaverError):
        return 500
    own = error.metadata.get("http_status", "")
    return int(own) if own.isascii() and own.isdigit() else _row(error)[1]


def code_name(error: BaseException) -> str:
    """Return the name of the gRPC code for an error, a cancellation included."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.CANCELLED.name
    return _row(error)[0].name if isinstance(error, WeaverError) else grpc.StatusCode.INTERNAL.name


def to_status(error: BaseException, request_id: str) -> tuple[grpc.StatusCode, str, Trailers]:
    """Return the gRPC code, a short ASCII message and the trailing metadata for an error."""
    if not isinstance(error, WeaverError) or isinstance(error, Internal):
        error = Internal(INTERNAL_MESSAGE)
    code = _row(error)[0]
    message = _ascii(error.message)
    status = status_pb2.Status(code=code.value[0], message=message)
    room = _DETAILS_BYTES
    for detail in _details(error, message, request_id):
        room -= detail.ByteSize()
        if room >= 0:
            any_pb2.Any.Pack(status.details.add(), detail)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def from_rpc_error(error: grpc.aio.AioRpcError) -> WeaverError:
    """Return the error that a status stands for; exactly what was raised, if Weaver raised it."""
    found = _from_details(error)
    if found is None:
        kind, reason = _FOREIGN.get(error.code(), (_BY_CODE.get(error.code(), Internal), None))
        found = kind(_MESSAGES[kind], reason=reason)
    found.__cause__ = error
    return found


def _row(error: WeaverError) -> tuple[grpc.StatusCode, int]:
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return TABLE[Internal]


def _ascii(text: str) -> str:
    clean = "".join(char if " " <= char <= "~" else "?" for char in text[: _MESSAGE_LIMIT + 1])
    return clean if len(clean) <= _MESSAGE_LIMIT else clean[: _MESSAGE_LIMIT - 3] + "..."


def _text(text: str, limit: int = _TEXT_LIMIT) -> str:
    return text[:limit].encode("utf-8", "replace").decode()


def _details(error: WeaverError, message: str, request_id: str) -> list[Message]:
    """Return the details, the most needed first."""
    details: list[Message] = []
    facts: dict[str, str] = {}
    room = _FACTS_BYTES
    for key, value in error.metadata.items():
        fact = _text(key), _text(value, _FACTS_BYTES)
        room -= sum(len(part.encode()) for part in fact)
        if room < 0:
            break
        facts[fact[0]] = fact[1]
    details.append(
        error_details_pb2.ErrorInfo(reason=_text(error.reason), domain=DOMAIN, metadata=facts)
    )
    if request_id:
        details.append(error_details_pb2.RequestInfo(request_id=_text(request_id)))
    if error.retry_after_s is not None and error.retry_after_s >= 0:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(min(error.retry_after_s, _RETRY_LIMIT_S) * _NANOS))
        details.append(retry)
    if "quota" in facts:
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_text(facts["quota"]), description=_text(message)
        )
        details.append(error_details_pb2.QuotaFailure(violations=[violation]))
    if message != error.message:
        original = _text(error.message, _MESSAGE_LIMIT)
        details.append(error_details_pb2.LocalizedMessage(locale="en", message=original))
    if error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_text(violation.field), description=_text(violation.description)
            )
            for violation in error.violations[:_VIOLATIONS_LIMIT]
        ]
        while sum(field.ByteSize() for field in fields) > _VIOLATIONS_BYTES:
            fields.pop()
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    return details


def _from_details(error: grpc.aio.AioRpcError) -> WeaverError | None:
    kind = _BY_CODE.get(error.code())
    raw = next(
        (value for key, value in error.trailing_metadata() or () if key == DETAILS_KEY), None
    )
    if kind is None or not isinstance(raw, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(raw)
        found = [_unpack(packed) for packed in status.details]
    except DecodeError:
        return None
    message = status.message
    info: error_details_pb2.ErrorInfo | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    for detail in found:
        match detail:
            case error_details_pb2.ErrorInfo(domain="weaver"):
                info = detail
            case error_details_pb2.BadRequest():
                violations = tuple(
                    FieldViolation(item.field, item.description) for item in detail.field_violations
                )
            case error_details_pb2.RetryInfo():
                retry_after_s = detail.retry_delay.ToNanoseconds() / _NANOS
            case error_details_pb2.LocalizedMessage():
                message = detail.message
    if info is None:
        return None
    return kind(
        message,
        reason=info.reason,
        retry_after_s=retry_after_s,
        violations=violations,
        metadata=dict(info.metadata),
    )


_KNOWN: Final[tuple[Any, ...]] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.LocalizedMessage,
)


def _unpack(packed: any_pb2.Any) -> Message | None:
    for kind in _KNOWN:
        if packed.Is(kind.DESCRIPTOR):
            return cast("Message", kind.FromString(packed.value))
    return None
