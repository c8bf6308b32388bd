"""A message's events as a chat completion's events."""

from collections.abc import Iterator
from typing import Any

import msgspec

from services.model.call import Facts
from services.model.dialects.anthropic_answers import Block, finish, thought, tool_call, usage
from services.model.dialects.ports import Asked
from services.model.failure import failed

_DONE = b"data: [DONE]\n\n"


class _Delta(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class _Message(msgspec.Struct):
    id: str = ""
    model: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None


class _Options(msgspec.Struct):
    include_usage: bool | None = None


class _Request(msgspec.Struct):
    stream_options: _Options | None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_request = msgspec.json.Decoder(_Request).decode


class AnthropicEvents:
    """Translates one stream; see `services.model.dialects.ports.Events`.

    Args:
        asked: what was asked.
    """

    def __init__(self, asked: Asked) -> None:
        """See the class."""
        options = _decode_request(asked.call.body).stream_options
        self._asked = asked
        self._with_usage = bool(options and options.include_usage)
        self._message = _Message()
        self._blocks: dict[int, Block] = {}
        self._calls: dict[int, int] = {}
        self._argued: set[int] = set()
        self._end: dict[str, Any] = finish(None, None)

    def take(self, data: bytes | None) -> bytes:
        """Take an event's data; return what it is in a chat completion."""
        if data is None:
            return b": keep-alive\n\n"
        event = _decode(data)
        if event.type == "ping":
            return b": keep-alive\n\n"
        return b"".join(self._delta(delta) for delta in self._deltas(event))

    def finish(self, facts: Facts) -> bytes:
        """Return the end of the completion."""
        end = [self._event([{"index": 0, "delta": {}, "logprobs": None, **self._end}])]
        if self._with_usage:
            end.append(self._event([], usage(self._asked.counted(facts))))
        return b"".join((*end, _DONE))

    def _deltas(self, event: _Event) -> Iterator[dict[str, Any]]:
        if event.type == "message_start" and event.message is not None:
            self._message = event.message
            yield {"role": "assistant", "content": "", "refusal": None}
        elif event.type == "content_block_start" and event.content_block is not None:
            yield from self._begin(event.index, event.content_block)
        elif event.type == "content_block_delta" and event.delta is not None:
            yield from self._add(event.index, event.delta)
        elif event.type == "content_block_stop":
            yield from self._stop(event.index)
        elif event.type == "message_delta" and event.delta is not None:
            self._end = finish(event.delta.stop_reason, event.delta.stop_sequence)

    def _begin(self, index: int, block: Block) -> Iterator[dict[str, Any]]:
        self._blocks[index] = block
        if block.type == "tool_use":
            number = self._calls[index] = len(self._calls)
            yield {"tool_calls": [{"index": number, **tool_call(block, "")}]}
        elif block.type == "text":
            if block.text:
                yield {"content": block.text}
        else:
            thought(block)
            if block.thinking:
                yield {"reasoning_content": block.thinking}

    def _add(self, index: int, delta: _Delta) -> Iterator[dict[str, Any]]:
        block = self._blocks.get(index)
        if block is None:
            msg = "The provider goes on with a block that it did not begin."
            raise failed(msg)
        if delta.type == "text_delta":
            yield {"content": delta.text}
        elif delta.type == "thinking_delta":
            block.thinking += delta.thinking
            yield {"reasoning_content": delta.thinking}
        elif delta.type == "signature_delta":
            block.signature = (block.signature or "") + delta.signature
        elif delta.type == "input_json_delta" and index in self._calls:
            self._argued.add(index)
            yield self._arguments(index, delta.partial_json)
        else:
            msg = f"The provider's answer has a {delta.type[:64]!r}, which OpenAI lacks."
            raise failed(msg)

    def _stop(self, index: int) -> Iterator[dict[str, Any]]:
        block = self._blocks.pop(index, None)
        if block is None or block.type == "text":
            return
        if block.type != "tool_use":
            yield {"thinking_blocks": [thought(block)]}
        elif index not in self._argued:
            # A tool without arguments has no fragments, and one that came whole has them here.
            yield self._arguments(index, msgspec.json.encode(block.input or {}).decode())

    def _arguments(self, index: int, piece: str) -> dict[str, Any]:
        call = {"index": self._calls[index], "function": {"arguments": piece}}
        return {"tool_calls": [call]}

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
        event: dict[str, Any] = {
            "id": self._message.id,
            "object": "chat.completion.chunk",
            "created": self._asked.created,
            "model": self._message.model or self._asked.call.model,
            "choices": choices,
        }
        if self._with_usage:
            event["usage"] = used
        return b"data: " + msgspec.json.encode(event) + b"\n\n"
