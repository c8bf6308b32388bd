"""What both vendors send, as recorded: whole answers and streams with fragments and pings."""

import json
from typing import Any

PNG = "iVBORw0KGgo="
TOOL_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ANTHROPIC_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 7,
    "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 0},
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 4},
    "service_tier": "standard",
}
ANTHROPIC_ANSWER: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "real-model",
    "content": [
        {"type": "thinking", "thinking": "Two cities.", "signature": "c2lnbmF0dXJl"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ulm"}},
        {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Köln"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "stop_details": None,
    "usage": ANTHROPIC_USAGE,
}
OPENAI_USAGE = {
    "prompt_tokens": 22,
    "completion_tokens": 20,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 7, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 4,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
OPENAI_ANSWER: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "real-model",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Let me look.",
                "refusal": None,
                "annotations": [],
                "tool_calls": [
                    {
                        "id": f"call_{number}",
                        "type": "function",
                        "function": {
                            "name": "weather",
                            "arguments": json.dumps({"city": city}, ensure_ascii=False),
                        },
                    }
                    for number, city in enumerate(("Ulm", "Köln"), 1)
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": OPENAI_USAGE,
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}


def _named(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind} | fields, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _block(index: int, head: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    events = [_named("content_block_start", index=index, content_block=head)]
    events += [_named("content_block_delta", index=index, delta=delta) for delta in deltas]
    return b"".join([*events, _named("content_block_stop", index=index)])


def _texts(kind: str, field: str, *texts: str) -> list[dict[str, Any]]:
    return [{"type": kind, field: text} for text in texts]


def anthropic_stream(*, text: tuple[str, ...] = ("Let ", "me look."), end: bool = True) -> bytes:
    """Return a message with thinking, a text, two tools in fragments, and pings."""
    usage = ANTHROPIC_USAGE | {"output_tokens": 1}
    begun: dict[str, Any] = {"content": [], "stop_reason": None, "usage": usage}
    tools = (("toolu_1", ('{"city"', ': "Ulm"}')), ("toolu_2", ("", '{"city": "K', 'öln"}')))
    events = [
        _named("message_start", message=ANTHROPIC_ANSWER | begun),
        _named("ping"),
        _block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            *_texts("thinking_delta", "thinking", "Two ", "cities."),
            {"type": "signature_delta", "signature": "c2lnbmF0dXJl"},
        ),
        _named("ping"),
        _block(1, {"type": "text", "text": ""}, *_texts("text_delta", "text", *text)),
    ]
    for index, (identifier, fragments) in enumerate(tools, 2):
        head = {"type": "tool_use", "id": identifier, "name": "weather", "input": {}}
        deltas = _texts("input_json_delta", "partial_json", *fragments)
        events.append(_block(index, head, *deltas))
    if end:
        delta = {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None}
        events.append(_named("message_delta", delta=delta, usage=ANTHROPIC_USAGE))
        events.append(_named("message_stop"))
    return b"".join(events)


def openai_stream(*, text: tuple[str, ...] = ("Let ", "me look."), end: bool = True) -> bytes:
    """Return a completion with a text, two tools in fragments, and comments."""
    frame = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "real-model",
        "service_tier": "default",
        "usage": None,
        "obfuscation": "x1",
    }
    calls = [
        {"index": 0, "id": "call_1", "type": "function", "name": "weather", "arguments": ""},
        {"index": 0, "arguments": '{"city"'},
        {"index": 0, "arguments": ': "Ulm"}'},
        {"index": 1, "id": "call_2", "type": "function", "name": "weather", "arguments": ""},
        {"index": 1, "arguments": '{"city": "K'},
        {"index": 1, "arguments": 'öln"}'},
    ]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": piece} for piece in text]
    for call in calls:
        function = {name: call.pop(name) for name in ("name", "arguments") if name in call}
        deltas.append({"tool_calls": [call | {"function": function}]})
    events = [": keep-alive"]
    for delta in deltas:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        events.append("data: " + json.dumps(frame | {"choices": [choice]}, ensure_ascii=False))
    if end:
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}
        events.append("data: " + json.dumps(frame | {"choices": [choice]}))
        events.append("data: " + json.dumps(frame | {"choices": [], "usage": OPENAI_USAGE}))
        events.append("data: [DONE]")
    return "".join(event + "\n\n" for event in events).encode()


def response_stream(*, end: bool = True) -> bytes:
    """Return a response with a text."""
    usage = {
        "input_tokens": 22,
        "input_tokens_details": {"cached_tokens": 7, "cache_write_tokens": 0},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 4},
        "total_tokens": 42,
    }
    part = {"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    done: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "real-model",
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage,
    }
    begun = done | {"status": "in_progress", "output": [], "usage": None}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    empty = item | {"content": [], "status": "in_progress"}
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": empty}),
        ("response.content_part.added", at | {"part": part | {"text": ""}}),
        ("response.output_text.delta", at | {"delta": "Let me ", "logprobs": []}),
        ("response.output_text.delta", at | {"delta": "look.", "logprobs": []}),
        ("response.output_text.done", at | {"text": "Let me look.", "logprobs": []}),
        ("response.content_part.done", at | {"part": part}),
        ("response.output_item.done", {"output_index": 0, "item": item}),
    ]
    events += [("response.completed", {"response": done})] if end else []
    return b"".join(
        _named(kind, sequence_number=number, **fields)
        for number, (kind, fields) in enumerate(events)
    )
