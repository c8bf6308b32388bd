"""Anthropic messages for a provider that speaks OpenAI's chat completions: the request."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from services.model.call import Call, Dialect, Facts
from services.model.dialects import openai_answers
from services.model.dialects.fields import Fields
from services.model.dialects.openai_events import OpenAIEvents
from services.model.dialects.openai_parts import plain, result_content, text_part, user_part
from services.model.dialects.ports import Asked, Events
from services.model.failure import untranslatable

OTHER: Final = "OpenAI's chat completions"
_SMALL_BUDGET: Final = 4096
_MIDDLE_BUDGET: Final = 16384
_EFFORTS: Final = {word: word for word in ("low", "medium", "high", "xhigh", "max")}
_TIERS: Final = {"auto": "auto", "standard_only": "default"}
_CHOICES: Final = {"auto": "auto", "any": "required", "none": "none", "tool": "tool"}
_TOOL_HINTS: Final = ("cache_control", "input_examples", "eager_input_streaming")


class ToOpenAI:
    """Anthropic's messages at an OpenAI provider; see `services.model.dialects.ports`.

    Args:
        limit_field: the field in which the provider is told how long an answer may be.
    """

    dialect = Dialect.OPENAI_CHAT

    def __init__(self, limit_field: str = "max_completion_tokens") -> None:
        """See the class."""
        self._limit_field = limit_field

    def request(self, call: Call, left_out: set[str]) -> Mapping[str, Any]:
        """Return the chat completion that asks for the same."""
        asked = Fields(msgspec.json.decode(call.body), "", left_out)
        said: dict[str, Any] = {"model": call.model}
        asked.take("model")
        said["messages"] = [*_system(asked), *_messages(asked)]
        tokens = asked.whole("max_tokens")
        if tokens is None:
            raise untranslatable("max_tokens", "is required.")
        said[self._limit_field] = tokens
        for name in ("temperature", "top_p"):
            _put(said, name, asked.number(name))
        _put(said, "stop", asked.items("stop_sequences") or None)
        _put(said, "stream", asked.flag("stream"))
        tools = [_tool(tool) for tool in asked.children("tools")]
        _put(said, "tools", tools or None)
        if (choice := asked.child("tool_choice")) is not None:
            _choose(said, choice)
        _reason(said, asked)
        _put(said, "service_tier", asked.choice("service_tier", _TIERS, OTHER))
        if (metadata := asked.child("metadata")) is not None:
            _put(said, "user", metadata.text("user_id"))
            metadata.end(OTHER)
        _forget(asked)
        asked.neutral("speed", "standard")
        asked.leave_out("cache_control")
        asked.end(OTHER)
        return said

    def answer(self, body: bytes, facts: Facts, asked: Asked) -> Mapping[str, Any]:
        """Return a chat completion as a message."""
        return openai_answers.message(body, facts, asked)

    def events(self, asked: Asked) -> Events:
        """Return what makes a message's events of a chat completion's."""
        return OpenAIEvents(asked)

    def error(self, vendor: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return OpenAI's error object as Anthropic writes it."""
        return openai_answers.error(vendor)


def _put(said: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        said[name] = value


def _system(asked: Fields) -> Iterator[dict[str, Any]]:
    if asked.has("system") and (content := _texts(asked, "system")):
        yield {"role": "system", "content": content}


def _texts(fields: Fields, name: str) -> str | list[dict[str, Any]]:
    """Return a text, or a list of text blocks, as OpenAI's content."""
    blocks = fields.blocks(name)
    if isinstance(blocks, str):
        return blocks
    parts = []
    for block in blocks:
        if block.required("type") != "text":
            raise untranslatable(block.at("type"), f"must be text for {OTHER}.")
        parts.append(text_part(block, OTHER))
    return plain(parts)


def _messages(asked: Fields) -> Iterator[dict[str, Any]]:
    messages = list(asked.children("messages"))
    if not messages:
        raise untranslatable("messages", "must hold at least one message.")
    for number, message in enumerate(messages):
        role = message.required("role")
        if role == "system":
            yield {"role": "system", "content": _texts(message, "content")}
        elif role == "user":
            yield from _user(message)
        elif role == "assistant":
            if number == len(messages) - 1:
                what = f"must not be assistant in the last message: {OTHER} cannot go on with it."
                raise untranslatable(message.at("role"), what)
            yield _assistant(message)
        else:
            raise untranslatable(message.at("role"), "must be user, assistant or system.")
        message.end(OTHER)


def _user(message: Fields) -> Iterator[dict[str, Any]]:
    """Yield the results of tools first, as messages of their own, then what the user says."""
    blocks = message.blocks("content")
    if isinstance(blocks, str):
        yield {"role": "user", "content": blocks}
        return
    parts: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.required("type")
        if kind == "tool_result":
            yield _result(block)
        else:
            parts += user_part(block, kind, OTHER)
    if parts:
        yield {"role": "user", "content": plain(parts)}


def _result(block: Fields) -> dict[str, Any]:
    said = {
        "role": "tool",
        "tool_call_id": block.required("tool_use_id"),
        "content": result_content(block, OTHER),
    }
    block.neutral("is_error", False)  # noqa: FBT003 - the value that says nothing
    block.leave_out("is_error", "cache_control")
    block.end(OTHER)
    return said


def _assistant(message: Fields) -> dict[str, Any]:
    blocks = message.blocks("content")
    if isinstance(blocks, str):
        return {"role": "assistant", "content": blocks}
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for block in blocks:
        kind = block.required("type")
        if kind == "text":
            parts.append(text_part(block, OTHER))
        elif kind == "tool_use":
            calls.append(_call(block))
        elif kind in {"thinking", "redacted_thinking"}:
            block.told(kind)
        else:
            raise untranslatable(block.at("type"), f"`{kind[:64]}` has no counterpart in {OTHER}.")
    silent = None if calls else ""
    said: dict[str, Any] = {"role": "assistant", "content": plain(parts) if parts else silent}
    if calls:
        said["tool_calls"] = calls
    return said


def _call(block: Fields) -> dict[str, Any]:
    arguments = msgspec.json.encode(block.mapping("input") or {}).decode()
    function = {"name": block.required("name"), "arguments": arguments}
    said = {"id": block.required("id"), "type": "function", "function": function}
    block.leave_out("cache_control", "caller")
    block.end(OTHER)
    return said


def _tool(tool: Fields) -> dict[str, Any]:
    kind = tool.text("type") or "custom"
    if kind != "custom":
        raise untranslatable(tool.at("type"), f"`{kind[:64]}` is a tool of Anthropic's servers.")
    function: dict[str, Any] = {"name": tool.required("name")}
    _put(function, "description", tool.text("description"))
    function["parameters"] = tool.mapping("input_schema") or {"type": "object", "properties": {}}
    _put(function, "strict", tool.flag("strict"))
    tool.leave_out(*_TOOL_HINTS)
    tool.neutral("defer_loading", False)  # noqa: FBT003 - the value that changes nothing
    tool.neutral("allowed_callers", ["direct"])
    tool.end(OTHER)
    return {"type": "function", "function": function}


def _choose(said: dict[str, Any], choice: Fields) -> None:
    kind = choice.choice("type", _CHOICES, OTHER)
    if kind == "tool":
        said["tool_choice"] = {"type": "function", "function": {"name": choice.required("name")}}
    else:
        _put(said, "tool_choice", kind)
    if choice.flag("disable_parallel_tool_use"):
        said["parallel_tool_calls"] = False
    choice.end(OTHER)


def _forget(asked: Fields) -> None:
    """Leave out what only makes a long conversation cheaper: the whole of it is sent."""
    if (management := asked.child("context_management")) is None:
        return
    for edit in management.children("edits"):
        if not edit.required("type").startswith("clear_"):
            raise untranslatable(edit.at("type"), f"has no counterpart in {OTHER}.")
    management.end(OTHER)
    asked.told("context_management")


def _reason(said: dict[str, Any], asked: Fields) -> None:
    """Say how much to think, and in which form to answer."""
    effort = None
    if (thinking := asked.child("thinking")) is not None:
        kind = thinking.required("type")
        if kind == "enabled":
            budget = thinking.whole("budget_tokens") or 0
            effort = "low" if budget < _SMALL_BUDGET else "high"
            effort = "medium" if _SMALL_BUDGET <= budget < _MIDDLE_BUDGET else effort
            thinking.told("thinking.budget_tokens")
        elif kind not in {"disabled", "adaptive"}:
            what = f"must be enabled, disabled or adaptive for {OTHER}."
            raise untranslatable(thinking.at("type"), what)
        thinking.leave_out("display")
        thinking.end(OTHER)
    form = asked.child("output_format")
    if (config := asked.child("output_config")) is not None:
        effort = config.choice("effort", _EFFORTS, OTHER) or effort
        form = config.child("format") or form
        config.end(OTHER)
    _put(said, "reasoning_effort", effort)
    if form is not None:
        if form.required("type") != "json_schema":
            raise untranslatable(form.at("type"), "must be json_schema.")
        schema = form.mapping("schema") or {}
        form.end(OTHER)
        said["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": True},
        }
