"""OpenAI's chat completions as Anthropic's messages: whole answers and errors."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from services.model.call import UNREADABLE, Facts, Usage
from services.model.dialects.ports import Asked
from services.model.failure import failed

_STOP_REASONS: Final[Mapping[str, str]] = {
    "stop": "end_turn",
    "eos_token": "end_turn",
    "length": "max_tokens",
    "model_length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES: Final[Mapping[str, str]] = {
    "rate_limit_error": "rate_limit_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "server_error": "api_error",
}


class Function(msgspec.Struct):
    """A function's call, or a fragment of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A tool's call, or a fragment of it."""

    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Part(msgspec.Struct):
    """A part of a message, as Mistral divides it."""

    type: str = ""
    text: str = ""
    thinking: "str | list[Part]" = ""

    @property
    def thoughts(self) -> str:
        """What was thought in it."""
        if isinstance(self.thinking, str):
            return self.thinking
        return "".join(part.text for part in self.thinking)


class Said(msgspec.Struct):
    """A message, or what an event adds to it."""

    content: str | list[Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None

    @property
    def thoughts(self) -> str:
        """What was thought, by each of the names that servers give it."""
        thoughts = self.reasoning_content or self.reasoning or ""
        if isinstance(self.content, list):
            thoughts += "".join(part.thoughts for part in self.content)
        return thoughts

    @property
    def text(self) -> str:
        """What is said, whole or in parts.

        Raises:
            ProviderError: a part is no text.
        """
        if not isinstance(self.content, list):
            return self.content or ""
        for part in self.content:
            if part.type not in {"text", "thinking"}:
                msg = f"The provider's answer has a {part.type[:64]!r}, which Anthropic lacks."
                raise failed(msg, retryable=False)
        return "".join(part.text for part in self.content)


class Choice(msgspec.Struct):
    """The one answer that was asked for, or what an event adds to it."""

    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class Completion(msgspec.Struct):
    """A chat completion, or one of its events."""

    id: str | None = None
    model: str | None = None
    choices: list[Choice] | None = None


decode = msgspec.json.Decoder(Completion).decode


def message(body: bytes, facts: Facts, asked: Asked) -> dict[str, Any]:
    """Return a whole chat completion as a message.

    Raises:
        ProviderError: a tool's arguments are no JSON object, or there is no answer.
        msgspec.DecodeError: it is no chat completion.
    """
    completion = decode(body)
    if not completion.choices or completion.choices[0].message is None:
        msg = "The provider's answer has no message."
        raise failed(msg)
    choice = completion.choices[0]
    said = completion.choices[0].message
    content: list[dict[str, Any]] = []
    if said.thoughts:
        content.append({"type": "thinking", "thinking": said.thoughts, "signature": ""})
    content += [{"type": "text", "text": text} for text in (said.text, said.refusal) if text]
    content += [_tool_use(call) for call in said.tool_calls or ()]
    reason, sequence = stopped(choice, refused=bool(said.refusal), called=bool(said.tool_calls))
    return {
        "id": completion.id or asked.call.request_id,
        "type": "message",
        "role": "assistant",
        "model": completion.model or asked.call.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(asked.counted(facts)),
    }


def stopped(choice: Choice, *, refused: bool, called: bool) -> tuple[str, str | None]:
    """Return why an answer ended, and the stop sequence where the server names it.

    A word that no table has passes as it is. An answer that calls tools and stops waits for them:
    OpenAI says `stop` where the tool was demanded by its name, and some servers always do.

    Args:
        choice: the answer, at its end.
        refused: whether it refuses.
        called: whether it calls tools.
    """
    if refused:
        return "refusal", None
    said = choice.finish_reason or "stop"
    reason = _STOP_REASONS.get(said, said)
    if called and reason == "end_turn":
        return "tool_use", None
    if reason == "end_turn" and isinstance(choice.stop_reason, str):
        return "stop_sequence", choice.stop_reason
    return reason, None


def usage(used: Usage) -> dict[str, Any]:
    """Return what was used as Anthropic counts it: cached tokens apart from the others."""
    cached = used.cached_input_tokens + used.cache_write_input_tokens
    said: dict[str, Any] = {
        "input_tokens": max(0, used.input_tokens - cached),
        "cache_creation_input_tokens": used.cache_write_input_tokens,
        "cache_read_input_tokens": used.cached_input_tokens,
        "output_tokens": used.output_tokens,
    }
    if used.reasoning_tokens:
        said["output_tokens_details"] = {"thinking_tokens": used.reasoning_tokens}
    if used.estimated:
        said["estimated"] = True
    return said


def error(vendor: Mapping[str, Any]) -> dict[str, Any]:
    """Return OpenAI's error object as Anthropic writes it."""
    found = vendor.get("error")
    said: Mapping[str, Any] = found if isinstance(found, dict) else {"message": found}
    message = said.get("message")
    kind = _ERROR_TYPES.get(str(said.get("type")), "invalid_request_error")
    if said.get("code") == "model_not_found":
        kind = "not_found_error"
    text = message if isinstance(message, str) and message else "The provider refuses the request."
    return {"type": "error", "error": {"type": kind, "message": text}}


def _tool_use(call: ToolCall) -> dict[str, Any]:
    function = call.function or Function()
    try:
        arguments = msgspec.json.decode(function.arguments or "{}")
    except UNREADABLE:
        arguments = None
    if not isinstance(arguments, dict):
        msg = "The provider calls a tool with arguments that are not a JSON object."
        raise failed(msg, retryable=False)
    return {
        "type": "tool_use",
        "id": call.id or "",
        "name": function.name or "",
        "input": arguments,
    }
