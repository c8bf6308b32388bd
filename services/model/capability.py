"""What a request asks of a model, held against what a route declares that its model can do.

Only a route that declares capabilities is held to them; the request is then refused before anybody
is asked, by the name of its field.
"""

from collections.abc import Collection
from typing import Any

import msgspec

from services.common.errors import InvalidArgument
from services.model.call import Dialect

_PARTS = {
    "image": "images",
    "image_url": "images",
    "document": "documents",
    "file": "documents",
    "input_audio": "audio",
    "input_image": "images",
    "input_file": "documents",
}


class _Message(msgspec.Struct, gc=False):
    content: Any = None


class _Request(msgspec.Struct):
    stream: Any = None
    tools: Any = None
    functions: Any = None
    logprobs: Any = None
    response_format: Any = None
    reasoning_effort: Any = None
    thinking: Any = None
    messages: list[_Message] = []


_decode = msgspec.json.Decoder(_Request).decode


def check(body: bytes, dialect: Dialect, capabilities: Collection[str]) -> None:
    """Refuse a request that asks for what the model cannot do.

    Raises:
        InvalidArgument: naming the field.
    """
    if dialect is Dialect.OPENAI_EMBEDDINGS:
        _require(capabilities, "embeddings", "input")
        return
    try:
        request = _decode(body)
    except (msgspec.DecodeError, RecursionError):
        # Whoever reads the whole request says what is wrong with it.
        return
    kind = request.response_format.get("type") if isinstance(request.response_format, dict) else ""
    asked = {
        "stream": ("stream", request.stream is True),
        "tools": ("tools", bool(request.tools)),
        "functions": ("tools", bool(request.functions)),
        "logprobs": ("logprobs", bool(request.logprobs)),
        "response_format": ("json_schema", kind == "json_schema"),
        "reasoning_effort": ("reasoning", bool(request.reasoning_effort)),
        "thinking": ("reasoning", bool(request.thinking)),
    }
    for field, (capability, wanted) in asked.items():
        if wanted:
            _require(capabilities, capability, field)
    for number, message in enumerate(request.messages):
        parts = message.content if isinstance(message.content, list) else ()
        for place, part in enumerate(parts):
            kind = part.get("type") if isinstance(part, dict) else None
            wanted_part = _PARTS.get(kind) if isinstance(kind, str) else None
            if wanted_part is not None:
                _require(capabilities, wanted_part, f"messages[{number}].content[{place}]")


def _require(capabilities: Collection[str], capability: str, field: str) -> None:
    if capability not in capabilities:
        description = f"asks for `{capability}`, which this model does not have."
        raise InvalidArgument.of_field(field, description)
