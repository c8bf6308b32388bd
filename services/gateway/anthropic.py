"""Anthropic's JSON as the gateway reads it: the few fields it decides by, its errors, its lists.

Unknown fields pass; what is read is checked, and a wrong field is named as the vendor names it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

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
from services.gateway.body import (
    capped,
    check_model,
    check_whole,
    decode,
    prompt_tokens,
    quoted,
    wrong,
)
from services.gateway.calls import Ask
from services.gateway.ports import ModelInfo

ROLES: Final = frozenset(("user", "assistant", "system"))
_VENDOR_ERROR: Final = '{"type":"error"'


class _Message(msgspec.Struct):
    role: str


class _Thinking(msgspec.Struct):
    budget_tokens: int | float | None = None


class MessagesRequest(msgspec.Struct):
    """What the gateway reads of a request for a message."""

    model: str
    messages: list[_Message]
    # JSON knows one kind of number: `1e3` and `16.0` are integers too.
    max_tokens: int | float
    stream: bool | None = None
    thinking: _Thinking | None = None


class CountRequest(msgspec.Struct):
    """What the gateway reads of a request for a count of tokens."""

    model: str
    messages: list[_Message]


_MESSAGES: Final = msgspec.json.Decoder(MessagesRequest)
_COUNT: Final = msgspec.json.Decoder(CountRequest)
_DECIDING: Final = quoted(*MessagesRequest.__struct_fields__)


def messages(body: bytes, most_output_tokens: int) -> Ask:
    """Read a request for a message.

    A number that allows more output than the deployment is replaced; everything else stays byte
    for byte.

    Args:
        body: the client's JSON.
        most_output_tokens: the most tokens that an answer may have here.

    Raises:
        InvalidArgument: naming the field.
    """
    request = decode(_MESSAGES, _DECIDING, body)
    _check(request.model, request.messages)
    # Zero asks for the prompt to be cached, and for no answer.
    check_whole("max_tokens", request.max_tokens, 0)
    output = min(int(request.max_tokens), most_output_tokens)
    budget = request.thinking.budget_tokens if request.thinking else None
    if budget is not None and output <= budget < request.max_tokens:
        raise wrong(
            "thinking.budget_tokens",
            f"must be less than {output}, the most tokens of an answer here",
        )
    body = capped(body, "max_tokens", request.max_tokens, most_output_tokens)
    return Ask(request.model, body, bool(request.stream), prompt_tokens(body), output)


def count_tokens(body: bytes, _: int) -> Ask:
    """Read a request for a count of tokens, which uses none.

    Raises:
        InvalidArgument: naming the field.
    """
    request = decode(_COUNT, _DECIDING, body)
    _check(request.model, request.messages)
    return Ask(request.model, body, stream=False, input_tokens=0, output_tokens=0)


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
    """Return an error as Anthropic's clients expect it: ASCII JSON of 4 KiB at most.

    A provider's own error body passes through.
    """
    vendor = error.metadata.get("vendor_body", "")
    if vendor.startswith(_VENDOR_ERROR) and len(vendor) <= MAX_ERROR_BODY and vendor.isascii():
        return vendor.encode()
    kind = next((name for cls, name in _TYPES.items() if isinstance(error, cls)), "api_error")
    if error.reason == "PROVIDER_FAILED":
        kind = "api_error"
    elif error.reason == "BUDGET_EXHAUSTED":
        kind = "billing_error"
    message = error.message
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": request_id,
    }
    encoded = ascii_json(body)
    if len(encoded) > MAX_ERROR_BODY:
        body["error"] = {"type": kind, "message": message[: MAX_ERROR_BODY // 16] + "…"}
        encoded = ascii_json(body)
    return encoded


def error_event(error: WeaverError, request_id: str) -> bytes:
    """Return an error as the last event of a stream that broke off; no `message_stop` follows."""
    return b"event: error\ndata: " + error_body(error, request_id) + b"\n\n"


def model_json(model: ModelInfo) -> dict[str, Any]:
    """Return a model as Anthropic lists it."""
    created = datetime.fromtimestamp(model.created, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created,
        "lifecycle": "active",
        "max_input_tokens": model.context_tokens or None,
        "max_tokens": model.max_output_tokens or None,
    }


def model_list(models: Sequence[ModelInfo]) -> bytes:
    """Return models as Anthropic lists them, all on one page."""
    listed = [model_json(model) for model in models]
    page = {
        "data": listed,
        "has_more": False,
        "first_id": listed[0]["id"] if listed else None,
        "last_id": listed[-1]["id"] if listed else None,
    }
    return msgspec.json.encode(page)


def _check(model: str, conversation: list[_Message]) -> None:
    check_model(model)
    if not conversation:
        raise wrong("messages", "must hold at least one message")
    for number, message in enumerate(conversation):
        if message.role not in ROLES:
            raise wrong(f"messages[{number}].role", f"must be one of {', '.join(sorted(ROLES))}")
