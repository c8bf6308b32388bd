"""A chat completion's events as a message's events.

Anthropic's blocks come one after the other. Text and thinking pass as they come; of several tool
calls the first passes as it comes, and what comes of the others meanwhile waits, because fragments
of parallel calls may come in any order.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from services.model.call import Facts
from services.model.dialects.openai_answers import Choice, Said, ToolCall, decode, stopped, usage
from services.model.dialects.ports import Asked

_DONE = b"[DONE]"


class _Block:
    """One block of content: open while it is the first that is not closed."""

    __slots__ = ("head", "key", "waiting")

    def __init__(self, key: tuple[str, int], head: dict[str, Any]) -> None:
        self.key = key
        self.head = head
        self.waiting: list[str] = []


class _Call(NamedTuple):
    """The call of a tool, by the order in which it began."""

    number: int
    identifier: str | None


class OpenAIEvents:
    """Translates one stream; see `services.model.dialects.ports.Events`.

    Args:
        asked: what was asked.
    """

    def __init__(self, asked: Asked) -> None:
        """See the class."""
        self._asked = asked
        self._started = False
        self._number = 0
        self._blocks: list[_Block] = []
        self._end = Choice()
        self._refused = False
        self._calls: dict[int | None, _Call] = {}
        self._count = 0

    def take(self, data: bytes | None) -> bytes:
        """Take an event's data; return what it is in a message."""
        if data is None:
            return event({"type": "ping"}) if self._started else b""
        if data == _DONE:
            return b""
        chunk = decode(data)
        if not self._started and not chunk.id and not chunk.choices:
            # Azure begins with what it thinks of the prompt, and says there who nobody is.
            return b""
        said = [] if self._started else [self._start(chunk.id, chunk.model)]
        for choice in chunk.choices or ():
            if choice.delta is not None:
                said += self._delta(choice.delta)
            if choice.finish_reason:
                self._end = choice
        return b"".join(said)

    def finish(self, facts: Facts) -> bytes:
        """Return the end of the message, and the blocks that waited for it."""
        said: list[bytes] = [] if self._started else [self._start(None, None)]
        while self._blocks:
            said += self._close()
        reason, sequence = stopped(self._end, refused=self._refused, called=self._count > 0)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        used = usage(self._asked.counted(facts))
        said.append(event({"type": "message_delta", "delta": delta, "usage": used}))
        said.append(event({"type": "message_stop"}))
        return b"".join(said)

    def _start(self, identifier: str | None, model: str | None) -> bytes:
        self._started = True
        message: dict[str, Any] = {
            "id": identifier or self._asked.call.request_id,
            "type": "message",
            "role": "assistant",
            "model": model or self._asked.call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return event({"type": "message_start", "message": message})

    def _delta(self, said: Said) -> Iterator[bytes]:
        if said.thoughts:
            head = {"type": "thinking", "thinking": "", "signature": ""}
            yield from self._add(("thinking", 0), head, said.thoughts)
        for text in (said.text, said.refusal):
            if text:
                yield from self._add(("text", 0), {"type": "text", "text": ""}, text)
        self._refused = self._refused or bool(said.refusal)
        for call in said.tool_calls or ():
            yield from self._call(call)

    def _call(self, call: ToolCall) -> Iterator[bytes]:
        """Add to a tool's call: by its index, and where servers number badly, by its id."""
        known = self._calls.get(call.index)
        if known is None or (call.id and call.id != known.identifier):
            self._count += 1
            known = _Call(self._count, call.id)
        self._calls[call.index] = self._calls[None] = known
        name = call.function.name if call.function is not None else None
        arguments = call.function.arguments if call.function is not None else None
        head = {"type": "tool_use", "id": call.id or "", "name": name or "", "input": {}}
        yield from self._add(("tool", known.number), head, arguments or "")

    def _add(self, key: tuple[str, int], head: dict[str, Any], text: str) -> Iterator[bytes]:
        """Add to the block of a key; begin it where it is new."""
        blocks = self._blocks
        block = next((block for block in blocks if block.key == key), None)
        if block is None:
            # Text and thinking go on in a new block once another has begun; a tool may not.
            if blocks and blocks[0].key[0] != "tool":
                yield from self._close()
            block = _Block(key, head)
            blocks.append(block)
            if block is blocks[0]:
                yield self._open(block)
        if not text:
            return
        if block is blocks[0]:
            yield self._say(block, text)
        else:
            block.waiting.append(text)

    def _close(self) -> Iterator[bytes]:
        """Close the open block and open the next."""
        self._blocks.pop(0)
        yield event({"type": "content_block_stop", "index": self._number})
        self._number += 1
        if self._blocks:
            block = self._blocks[0]
            yield self._open(block)
            if block.waiting:
                yield self._say(block, "".join(block.waiting))

    def _open(self, block: _Block) -> bytes:
        start = {"type": "content_block_start", "index": self._number, "content_block": block.head}
        return event(start)

    def _say(self, block: _Block, text: str) -> bytes:
        kind = block.key[0]
        delta = {"type": "text_delta", "text": text}
        if kind == "thinking":
            delta = {"type": "thinking_delta", "thinking": text}
        elif kind == "tool":
            delta = {"type": "input_json_delta", "partial_json": text}
        return event({"type": "content_block_delta", "index": self._number, "delta": delta})


def event(value: dict[str, Any]) -> bytes:
    """Return one of Anthropic's events."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), msgspec.json.encode(value))
