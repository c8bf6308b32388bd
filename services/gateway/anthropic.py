"""Anthropic's JSON as the gateway writes it: errors."""

from typing import Final

from services.common.errors import (
    DeadlineExceeded,
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
from services.gateway.ascii_json import MAX_ERROR_BODY, ascii_json

_TYPES: Final[dict[type[WeaverError], str]] = {
    InvalidArgument: "invalid_request_error",
    Unimplemented: "invalid_request_error",
    Unauthenticated: "authentication_error",
    PermissionDenied: "permission_error",
    NotFound: "not_found_error",
    ResourceExhausted: "rate_limit_error",
    Unavailable: "overloaded_error",
    DeadlineExceeded: "timeout_error",
    Internal: "api_error",
}


def error_body(error: WeaverError, request_id: str) -> bytes:
    """Return an error as Anthropic's clients expect it: ASCII JSON of 4 KiB at most."""
    kind = next((name for cls, name in _TYPES.items() if isinstance(error, cls)), "api_error")
    message = error.message
    body = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }
    encoded = ascii_json(body)
    if len(encoded) > MAX_ERROR_BODY:
        body["error"] = {"type": kind, "message": message[: MAX_ERROR_BODY // 16] + "…"}
        encoded = ascii_json(body)
    return encoded
