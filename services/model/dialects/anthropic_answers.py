"""Anthropic's messages as OpenAI's chat completions: whole answers and errors."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from services.model.call import Facts, Usage
from services.model.dialects.ports import Asked
from services.model.failure import failed

FINISH_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_ERROR_TYPES: Final[Mapping[str, str]] = {
    "rate_limit_error": "rate_limit_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "api_error": "server_error",
    "overloaded_error": "server_error",
}


class Block(msgspec.Struct):
    """One block of content, or how one begins."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str | None = None
    data: str = ""
    id: str = ""
    name: str = ""
    input: dict[str, Any] | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""
    content: list[Block] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None


_decode = msgspec.json.Decoder(_Message).decode


def completion(body: bytes, facts: Facts, asked: Asked) -> dict[str, Any]:
    """Return a whole message as a chat completion.

    Raises:
        ProviderError: it has a block that OpenAI has no word for.
        msgspec.DecodeError: it is no message.
    """
    message = _decode(body)
    texts: list[str] = []
    thoughts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in message.content:
        if block.type == "text":
            texts.append(block.text)
        elif block.type == "tool_use":
            calls.append(tool_call(block, msgspec.json.encode(block.input or {}).decode()))
        else:
            thoughts.append(thought(block))
    said: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": None,
    }
    if thoughts:
        said["reasoning_content"] = "".join(block.get("thinking", "") for block in thoughts)
        said["thinking_blocks"] = thoughts
    if calls:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "logprobs": None} | finish(
        message.stop_reason, message.stop_sequence
    )
    return {
        "id": message.id,
        "object": "chat.completion",
        "created": asked.created,
        "model": message.model or asked.call.model,
        "choices": [choice],
        "usage": usage(asked.counted(facts)),
    }


def finish(reason: str | None, sequence: str | None) -> dict[str, Any]:
    """Return why an answer ended, with the stop sequence under the name that vLLM gives it.

    A word that OpenAI's clients do not expect stands there too: some of them fail at a new one.
    """
    given = reason or "end_turn"
    said: dict[str, Any] = {"finish_reason": FINISH_REASONS.get(given, "stop")}
    if sequence is not None or given not in FINISH_REASONS:
        said["stop_reason"] = sequence or given
    return said


def thought(block: Block) -> dict[str, Any]:
    """Return a block of thinking, as the assistant's next turn must bring it back.

    Raises:
        ProviderError: it is another kind of block.
    """
    if block.type == "thinking":
        return {"type": "thinking", "thinking": block.thinking, "signature": block.signature or ""}
    if block.type == "redacted_thinking":
        return {"type": "redacted_thinking", "data": block.data}
    msg = f"The provider's answer has a block of the type {block.type[:64]!r}, which OpenAI lacks."
    raise failed(msg, retryable=False)


def tool_call(block: Block, arguments: str) -> dict[str, Any]:
    """Return the call of a tool."""
    function = {"name": block.name, "arguments": arguments}
    return {"id": block.id, "type": "function", "function": function}


def usage(used: Usage) -> dict[str, Any]:
    """Return what was used as OpenAI counts it: cached tokens among the others."""
    said: dict[str, Any] = {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": used.cached_input_tokens,
            "cache_write_tokens": used.cache_write_input_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }
    if used.estimated:
        said["estimated"] = True
    return said


def error(vendor: Mapping[str, Any]) -> dict[str, Any]:
    """Return Anthropic's error object as OpenAI writes it."""
    found = vendor.get("error")
    said: Mapping[str, Any] = found if isinstance(found, dict) else {}
    message, given = said.get("message"), str(said.get("type"))
    text = message if isinstance(message, str) and message else "The provider refuses the request."
    code = "model_not_found" if given == "not_found_error" else None
    kind = _ERROR_TYPES.get(given, "invalid_request_error")
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}
