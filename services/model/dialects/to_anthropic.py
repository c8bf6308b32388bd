"""OpenAI's chat completions for a provider that speaks Anthropic's messages: the request."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from services.model.call import Call, Dialect, Facts
from services.model.dialects import anthropic_answers
from services.model.dialects.anthropic_events import AnthropicEvents
from services.model.dialects.anthropic_turns import Turns
from services.model.dialects.fields import Fields
from services.model.dialects.ports import Asked, Events
from services.model.failure import untranslatable

OTHER: Final = "Anthropic's messages"
_DEFAULT_TOKENS: Final = 4096
_EFFORTS: Final = {"minimal": "low"} | {
    word: word for word in ("low", "medium", "high", "xhigh", "max", "none")
}
_TIERS: Final = {"auto": "auto", "default": "standard_only"}
_CHOICES: Final = {"auto": "auto", "required": "any", "none": "none"}
_NO_ARGUMENTS: Final = {"type": "object", "properties": {}}
# What changes no answer: how it is stored, cached or found again.
_HINTS: Final = (
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
)


class ToAnthropic:
    """OpenAI's chat completions at Anthropic; see `services.model.dialects.ports`."""

    dialect = Dialect.ANTHROPIC_MESSAGES

    def request(self, call: Call, left_out: set[str]) -> Mapping[str, Any]:
        """Return the message that asks for the same."""
        asked = Fields(msgspec.json.decode(call.body), "", left_out)
        asked.take("model")
        said: dict[str, Any] = {"model": call.model, "max_tokens": _tokens(asked, call)}
        turns = Turns(asked.children("messages"), OTHER)
        if turns.system:
            said["system"] = turns.system
        if not turns.messages:
            raise untranslatable("messages", f"must hold more than instructions for {OTHER}.")
        said["messages"] = turns.messages
        _sample(said, asked)
        _put(said, "stream", asked.flag("stream"))
        _tools(said, asked)
        _form(said, asked)
        user = asked.text("user")
        if (user := asked.text("safety_identifier") or user) is not None:
            said["metadata"] = {"user_id": user}
        _put(said, "service_tier", asked.choice("service_tier", _TIERS, OTHER))
        _stream(asked)
        asked.leave_out(*_HINTS)
        asked.neutral("verbosity", "medium")
        asked.neutral("modalities", ["text"])
        for name in ("logprobs", "store"):
            asked.neutral(name, False)  # noqa: FBT003 - the value that changes nothing
        for name in ("frequency_penalty", "presence_penalty", "top_logprobs"):
            asked.neutral(name, 0)
        asked.neutral("n", 1)
        asked.neutral("logit_bias")
        asked.neutral("functions")
        asked.end(OTHER)
        return said

    def answer(self, body: bytes, facts: Facts, asked: Asked) -> Mapping[str, Any]:
        """Return a message as a chat completion."""
        return anthropic_answers.completion(body, facts, asked)

    def events(self, asked: Asked) -> Events:
        """Return what makes a chat completion's events of a message's."""
        return AnthropicEvents(asked)

    def error(self, vendor: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return Anthropic's error object as OpenAI writes it."""
        return anthropic_answers.error(vendor)


def _put(said: dict[str, Any], name: str, value: object) -> None:
    if value is not None:
        said[name] = value


def _tokens(asked: Fields, call: Call) -> int:
    """Return the most tokens of the answer, which Anthropic must be told."""
    given = (asked.whole("max_completion_tokens"), asked.whole("max_tokens"))
    most = min((value for value in given if value is not None), default=None)
    return most or call.max_output_tokens or _DEFAULT_TOKENS


def _sample(said: dict[str, Any], asked: Fields) -> None:
    temperature = asked.number("temperature")
    if temperature is not None and not 0 <= temperature <= 1:
        raise untranslatable("temperature", f"must lie between 0 and 1 for {OTHER}.")
    _put(said, "temperature", temperature)
    _put(said, "top_p", asked.number("top_p"))
    stop = asked.take("stop")
    if isinstance(stop, str):
        stop = [stop]
    elif stop is not None and not isinstance(stop, list):
        raise untranslatable("stop", "must be a text or a list of texts.")
    _put(said, "stop_sequences", stop or None)


def _tools(said: dict[str, Any], asked: Fields) -> None:
    tools = [_tool(tool) for tool in asked.children("tools")]
    _put(said, "tools", tools or None)
    choice: dict[str, Any] | None = None
    wanted = asked.take("tool_choice")
    if isinstance(wanted, str):
        if wanted not in _CHOICES:
            raise untranslatable(
                "tool_choice", f"must be one of {', '.join(_CHOICES)}, or a function."
            )
        choice = {"type": _CHOICES[wanted]}
    elif wanted is not None:
        fields = Fields(wanted, "tool_choice", set())
        if fields.required("type") != "function":
            raise untranslatable("tool_choice.type", f"must be function for {OTHER}.")
        function = fields.child("function")
        if function is None:
            raise untranslatable("tool_choice.function", "is required.")
        choice = {"type": "tool", "name": function.required("name")}
        function.end(OTHER)
        fields.end(OTHER)
    if asked.flag("parallel_tool_calls") is False and tools:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    _put(said, "tool_choice", choice)


def _tool(tool: Fields) -> dict[str, Any]:
    if tool.required("type") != "function":
        raise untranslatable(tool.at("type"), f"must be function for {OTHER}.")
    function = tool.child("function")
    if function is None:
        raise untranslatable(tool.at("function"), "is required.")
    said: dict[str, Any] = {"name": function.required("name")}
    _put(said, "description", function.text("description"))
    said["input_schema"] = function.mapping("parameters") or _NO_ARGUMENTS
    _put(said, "strict", function.flag("strict") or None)
    function.end(OTHER)
    tool.end(OTHER)
    return said


def _form(said: dict[str, Any], asked: Fields) -> None:
    """Say how much to think, and in which form to answer."""
    config: dict[str, Any] = {}
    effort = asked.choice("reasoning_effort", _EFFORTS, OTHER)
    # Anthropic's own parameter, which its OpenAI-compatible surface takes too.
    _put(said, "thinking", asked.mapping("thinking"))
    if effort == "none":
        said.setdefault("thinking", {"type": "disabled"})
    elif effort is not None:
        config["effort"] = effort
    if (wanted := asked.child("response_format")) is not None:
        kind = wanted.required("type")
        if kind == "json_schema":
            schema = wanted.child("json_schema")
            if schema is None:
                raise untranslatable(wanted.at("json_schema"), "is required.")
            config["format"] = {"type": "json_schema", "schema": schema.mapping("schema") or {}}
            for name in ("name", "description", "strict"):
                schema.take(name)
            schema.end(OTHER)
        elif kind != "text":
            what = f"must be text or json_schema for {OTHER}, which needs a schema."
            raise untranslatable(wanted.at("type"), what)
        wanted.end(OTHER)
    _put(said, "output_config", config or None)


def _stream(asked: Fields) -> None:
    """Take what the answer's translation asks for itself."""
    if (options := asked.child("stream_options")) is not None:
        options.flag("include_usage")
        options.leave_out("include_obfuscation")
        options.end(OTHER)
