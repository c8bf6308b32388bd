"""Recorded shapes of both vendors, and the accumulation that their SDKs do."""

import json
from typing import Any

from services.model.call import Call, Dialect, Facts
from services.model.dialects.ports import Asked, Translator
from services.model.sse import Parser

PNG = "iVBORw0KGgo="
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

ANTHROPIC_MESSAGE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [
        {"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "cmVk"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Köln"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 10,
        "cache_creation_input_tokens": 5,
        "cache_read_input_tokens": 7,
        "output_tokens": 20,
        "output_tokens_details": {"thinking_tokens": 4},
    },
}


def asked(body: dict[str, Any], dialect: Dialect = Dialect.OPENAI_CHAT) -> Call:
    """Return a call for a body."""
    return Call("r-1", dialect, body.get("model", "m"), json.dumps(body).encode())


def retold(translator: Translator, call: Call) -> tuple[dict[str, Any], set[str]]:
    """Return a request in the other dialect, and what was left out."""
    left_out: set[str] = set()
    return dict(translator.request(call, left_out)), left_out


def answered(translator: Translator, call: Call, body: dict[str, Any], facts: Facts) -> Any:
    """Return an answer in the client's dialect."""
    known = Asked(call, b"{}", frozenset(), 1_700_000_000)
    return translator.answer(json.dumps(body).encode(), facts, known)


def streamed(translator: Translator, call: Call, events: list[Any], facts: Facts) -> bytes:
    """Return a stream in the client's dialect; an event is its data, or None for a comment."""
    translating = translator.events(Asked(call, b"{}", frozenset(), 1_700_000_000))
    said = [
        translating.take(event if event is None else json.dumps(event).encode()) for event in events
    ]
    return b"".join([*said, translating.finish(facts)])


def data(body: bytes) -> list[Any]:
    """Return the data of each event; `[DONE]` and comments as they are."""
    found = [event.data for event in Parser().feed(body)]
    return [json.loads(item) if item and item != b"[DONE]" else item for item in found]


def message_of(body: bytes) -> dict[str, Any]:
    """Put a message together as Anthropic's clients do, and hold its events to their order."""
    message: dict[str, Any] = {}
    fragments: dict[int, str] = {}
    open_block: int | None = None
    for event in data(body):
        kind = event["type"]
        if kind == "message_start":
            assert not message
            message = event["message"]
        elif kind == "content_block_start":
            assert open_block is None
            assert event["index"] == len(message["content"])
            open_block = event["index"]
            message["content"].append(event["content_block"])
        elif kind == "content_block_delta":
            assert event["index"] == open_block
            block, delta = message["content"][event["index"]], event["delta"]
            if delta["type"] == "text_delta":
                block["text"] += delta["text"]
            elif delta["type"] == "thinking_delta":
                block["thinking"] += delta["thinking"]
            else:
                assert delta["type"] == "input_json_delta"
                fragments[event["index"]] = (
                    fragments.get(event["index"], "") + delta["partial_json"]
                )
        elif kind == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
        elif kind == "message_delta":
            assert open_block is None
            message |= event["delta"]
            message["usage"] |= event["usage"]
        else:
            assert kind in {"ping", "message_stop"}
    for index, text in fragments.items():
        message["content"][index]["input"] = json.loads(text)
    return message


def completion_of(body: bytes) -> dict[str, Any]:
    """Put a chat completion together as OpenAI's clients do."""
    said: dict[str, Any] = {"content": "", "reasoning": "", "thinking_blocks": [], "calls": {}}
    events = [event for event in data(body) if event is not None]
    assert events[-1] == b"[DONE]"
    for event in events[:-1]:
        assert event["object"] == "chat.completion.chunk"
        said["usage"] = event.get("usage")
        for choice in event["choices"]:
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["reasoning"] += delta.get("reasoning_content") or ""
            said["thinking_blocks"] += delta.get("thinking_blocks") or []
            for call in delta.get("tool_calls") or ():
                known = said["calls"].setdefault(call["index"], {"arguments": ""})
                known |= {name: call[name] for name in ("id",) if name in call}
                function = call["function"]
                known |= {name: function[name] for name in ("name",) if name in function}
                known["arguments"] += function["arguments"]
            if choice["finish_reason"]:
                said["finish_reason"] = choice["finish_reason"]
                said["stop_reason"] = choice.get("stop_reason")
    return said
