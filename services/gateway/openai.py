"""OpenAI's JSON as the gateway reads it: the few fields it decides by, its errors, its lists.

Unknown fields pass; what is read is checked, and a wrong field is named as the vendor names it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from services.common.errors import (
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
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

MAX_CHOICES = 128
ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool", "function"))
DONE: Final = b"data: [DONE]\n\n"


class _Message(msgspec.Struct):
    role: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class ChatRequest(msgspec.Struct):
    """What the gateway reads of a chat completion request."""

    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    # JSON knows one kind of number: `1e3` and `16.0` are integers too.
    max_tokens: int | float | None = None
    max_completion_tokens: int | float | None = None
    n: int | float | None = None

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens of one choice that the client allows; None when it does not say."""
        asked = (self.max_completion_tokens, self.max_tokens)
        return min((int(value) for value in asked if value is not None), default=None)

    @property
    def choices(self) -> int:
        """How many answers the client asks for."""
        return int(self.n or 1)


class EmbeddingsRequest(msgspec.Struct):
    """What the gateway reads of an embeddings request."""

    model: str
    input: msgspec.Raw


_CHAT: Final = msgspec.json.Decoder(ChatRequest)
_EMBEDDINGS: Final = msgspec.json.Decoder(EmbeddingsRequest)

_DECIDING: Final = quoted(*ChatRequest.__struct_fields__, "input")


def parse_chat(body: bytes) -> ChatRequest:
    """Read and check a chat completion request.

    Raises:
        InvalidArgument: naming the field.
    """
    request = decode(_CHAT, _DECIDING, body)
    check_model(request.model)
    if not request.messages:
        raise wrong("messages", "must hold at least one message")
    for number, message in enumerate(request.messages):
        if message.role not in ROLES:
            allowed = ", ".join(sorted(ROLES))
            raise wrong(f"messages[{number}].role", f"must be one of {allowed}")
    for field in ("max_tokens", "max_completion_tokens"):
        check_whole(field, getattr(request, field))
    if request.n is not None and (not 1 <= request.n <= MAX_CHOICES or request.n != int(request.n)):
        raise wrong("n", f"must be a whole number from 1 to {MAX_CHOICES}")
    if request.stream_options is not None and not request.stream:
        raise wrong("stream_options", "is allowed only when `stream` is true")
    return request


def parse_embeddings(body: bytes) -> EmbeddingsRequest:
    """Read and check an embeddings request.

    Raises:
        InvalidArgument: naming the field.
    """
    request = decode(_EMBEDDINGS, _DECIDING, body)
    check_model(request.model)
    if bytes(request.input)[:1] not in (b'"', b"["):
        raise wrong("input", "must be a text or a list")
    return request


def chat(body: bytes, most_output_tokens: int) -> Ask:
    """Read a chat completion request.

    Numbers that allow more output than the deployment are replaced; everything else stays byte for
    byte.

    Args:
        body: the client's JSON.
        most_output_tokens: the most tokens that one choice may have here.

    Raises:
        InvalidArgument: naming the field.
    """
    request = parse_chat(body)
    for field in ("max_tokens", "max_completion_tokens"):
        body = capped(body, field, getattr(request, field), most_output_tokens)
    output = min(request.max_output_tokens or most_output_tokens, most_output_tokens)
    return Ask(
        request.model, body, bool(request.stream), prompt_tokens(body), output * request.choices
    )


def embeddings(body: bytes, _: int) -> Ask:
    """Read an embeddings request.

    Raises:
        InvalidArgument: naming the field.
    """
    request = parse_embeddings(body)
    return Ask(request.model, body, stream=False, input_tokens=prompt_tokens(body), output_tokens=0)


_TYPES: Final[dict[type[WeaverError], str]] = {
    ResourceExhausted: "rate_limit_error",
    Unavailable: "server_error",
    DeadlineExceeded: "server_error",
    Internal: "server_error",
}
_CODES: Final = {
    "INVALID_CREDENTIAL": "invalid_api_key",
    "MISSING_CREDENTIAL": "invalid_api_key",
    "EXPIRED_CREDENTIAL": "invalid_api_key",
    "MISTYPED_CREDENTIAL": "invalid_api_key",
    "DISABLED_CREDENTIAL": "invalid_api_key",
    "MODEL_NOT_FOUND": "model_not_found",
    "RATE_LIMITED": "rate_limit_exceeded",
    "PROVIDER_THROTTLED": "rate_limit_exceeded",
    "BUDGET_EXHAUSTED": "insufficient_quota",
}


def error_body(error: WeaverError, request_id: str) -> bytes:
    """Return an error as OpenAI's clients expect it: ASCII JSON of 4 KiB at most.

    A provider's own error body passes through.
    """
    vendor = error.metadata.get("vendor_body")
    if vendor is not None and len(vendor) <= MAX_ERROR_BODY and vendor.isascii():
        return vendor.encode()
    kind = next(
        (name for cls, name in _TYPES.items() if isinstance(error, cls)), "invalid_request_error"
    )
    if error.reason == "BUDGET_EXHAUSTED":
        kind = "insufficient_quota"
    message = error.message
    if kind == "server_error":
        message = f"{message} (request id {request_id})"
    body = {
        "error": {
            "message": message,
            "type": kind,
            "param": error.violations[0].field if error.violations else _param(error),
            "code": _CODES.get(error.reason, error.reason.lower()),
        }
    }
    encoded = ascii_json(body)
    if len(encoded) > MAX_ERROR_BODY:
        body["error"]["message"] = message[: MAX_ERROR_BODY // 16] + "…"
        body["error"]["param"] = None
        encoded = ascii_json(body)
    return encoded


def error_event(error: WeaverError, request_id: str) -> bytes:
    """Return an error as the last event of a stream that broke off; no `[DONE]` follows it."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


def model_json(model: ModelInfo) -> dict[str, Any]:
    """Return a model as OpenAI lists it."""
    return {"id": model.id, "object": "model", "created": model.created, "owned_by": model.provider}


def model_list(models: Sequence[ModelInfo]) -> bytes:
    """Return models as OpenAI lists them."""
    return msgspec.json.encode({"object": "list", "data": [model_json(model) for model in models]})


def _param(error: WeaverError) -> str | None:
    return "model" if error.reason == "MODEL_NOT_FOUND" else None
