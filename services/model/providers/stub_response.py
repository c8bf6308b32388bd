"""What the stub provider says, dressed as OpenAI's responses."""

from collections.abc import Iterator
from typing import Any

import msgspec

from services.model.call import Chunk
from services.model.providers.stub_answer import Reply


def whole(model: str, created: int, reply: Reply) -> bytes:
    """Return a whole response."""
    return msgspec.json.encode(_response(model, created, reply, "".join(reply.words)))


def streamed(model: str, created: int, reply: Reply) -> Iterator[Chunk]:
    """Yield a response's events, word by word."""
    text = "".join(reply.words)
    begun = _response(model, created, reply, None)
    done = _response(model, created, reply, text)
    item, part = _item(reply, ""), _part("")
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    words = [("response.output_text.delta", at | {"delta": word}) for word in reply.words]
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": item | {"content": []}}),
        ("response.content_part.added", at | {"part": part}),
        *((kind, fields | {"logprobs": []}) for kind, fields in words),
        ("response.output_text.done", at | {"text": text, "logprobs": []}),
        ("response.content_part.done", at | {"part": _part(text)}),
        ("response.output_item.done", {"output_index": 0, "item": _item(reply, text)}),
        (f"response.{done['status']}", {"response": done}),
    ]
    for number, (kind, fields) in enumerate(events):
        data = msgspec.json.encode({"type": kind, "sequence_number": number, **fields})
        body = b"event: %b\ndata: %b\n\n" % (kind.encode(), data)
        yield Chunk(body, terminal=number == len(events) - 1)


def _response(model: str, created: int, reply: Reply, text: str | None) -> dict[str, Any]:
    cut = reply.finish_reason == "length"
    status = "in_progress" if text is None else "incomplete" if cut else "completed"
    used = reply.usage
    usage = {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.input_tokens + used.output_tokens,
    }
    return {
        "id": f"resp_stub_{reply.tag.decode()}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [] if text is None else [_item(reply, text)],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if text is None else usage,
    }


def _item(reply: Reply, text: str) -> dict[str, Any]:
    return {
        "id": f"msg_stub_{reply.tag.decode()}",
        "type": "message",
        "role": "assistant",
        "status": "completed" if text else "in_progress",
        "content": [_part(text)],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
