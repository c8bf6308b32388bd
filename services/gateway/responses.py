"""OpenAI's responses as the gateway reads them, and how their streams break off.

Unknown fields pass. What would answer later, elsewhere, is refused: nothing returns unrecorded.
"""

from typing import Final

import msgspec

from services.common.errors import WeaverError
from services.gateway import openai
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


class ResponsesRequest(msgspec.Struct):
    """What the gateway reads of a request for a response."""

    model: str
    input: msgspec.Raw = msgspec.Raw(b"null")
    stream: bool | None = None
    background: bool | None = None
    # JSON knows one kind of number: `1e3` and `16.0` are integers too.
    max_output_tokens: int | float | None = None


_RESPONSES: Final = msgspec.json.Decoder(ResponsesRequest)
_DECIDING: Final = quoted(*ResponsesRequest.__struct_fields__)


def responses(body: bytes, most_output_tokens: int) -> Ask:
    """Read a request for a response.

    A number that allows more output than the deployment is replaced; everything else stays byte
    for byte.

    Args:
        body: the client's JSON.
        most_output_tokens: the most tokens that an answer may have here.

    Raises:
        InvalidArgument: naming the field.
    """
    request = decode(_RESPONSES, _DECIDING, body)
    check_model(request.model)
    if bytes(request.input)[:1] not in (b'"', b"[", b"n"):
        raise wrong("input", "must be a text or a list")
    if request.background:
        raise wrong("background", "must be false: an answer that is fetched later is not served")
    check_whole("max_output_tokens", request.max_output_tokens)
    body = capped(body, "max_output_tokens", request.max_output_tokens, most_output_tokens)
    output = min(int(request.max_output_tokens or most_output_tokens), most_output_tokens)
    return Ask(request.model, body, bool(request.stream), prompt_tokens(body), output)


def error_event(error: WeaverError, request_id: str) -> bytes:
    """Return an error as the last event of a stream that broke off; no completion follows it.

    It is written as the documentation of the event has it, and as OpenAI's clients look for it.
    """
    body = msgspec.json.decode(openai.error_body(error, request_id))
    found = body.get("error")
    said = found if isinstance(found, dict) else {"message": error.message}
    event = {
        "type": "error",
        "code": said.get("code"),
        "message": said.get("message"),
        "param": said.get("param"),
        "sequence_number": 0,
        "error": said,
    }
    return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"
