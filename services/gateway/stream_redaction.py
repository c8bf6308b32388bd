"""Personal data taken out of a stream of OpenAI chat completion events.

Texts come in pieces; each text of a stream (a choice's content, each tool call's arguments, …) runs
through a `RunningText` of its own. What is held back is released with the event that ends the
choice, or in an event made for it just before. Everything but the texts stays byte for byte.
"""

import re
from typing import Final

import msgspec

from services.gateway.redaction import Redactor, RunningText

_EVENT_END: Final = re.compile(rb"\r?\n\r?\n")
# A quote inside a string is always escaped, so a key cannot match within a text.
_TEXT: Final = re.compile(
    rb'"(content|refusal|reasoning_content|reasoning|arguments|text)"[ \t]*:[ \t]*'
    rb'("(?:[^"\\]++|\\.)*+")'
)


class _Function(msgspec.Struct):
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    function: _Function | None = None


class _Delta(msgspec.Struct):
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b'""')
    created: msgspec.Raw = msgspec.Raw(b"0")
    model: msgspec.Raw = msgspec.Raw(b'""')
    choices: list[_Choice] = []


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_Key = tuple[int, int, bytes]


class StreamRedactor:
    """Redacts the events of one stream.

    Args:
        redactor: the request's.
    """

    __slots__ = ("_last", "_redactor", "_texts")

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._texts: dict[_Key, RunningText] = {}
        self._last = _Chunk()

    def events(self, body: bytes) -> bytes:
        """Take whole server-sent events and return what can be released of them."""
        pieces: list[bytes] = []
        done = 0
        for end in _EVENT_END.finditer(body):
            pieces.append(self._event(body[done : end.end()]))
            done = end.end()
        return b"".join([*pieces, body[done:]])

    def finish(self) -> bytes:
        """Return events with all that was held back: the stream is over."""
        return b"".join(self._release(choice) for choice in sorted({key[0] for key in self._texts}))

    def _event(self, event: bytes) -> bytes:
        if not event.startswith(b"data:") or event.startswith(b"data: [DONE]"):
            return event
        try:
            chunk = _CHUNK.decode(event[5:])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._redactor.json(event)
        if not chunk.choices:
            return event
        self._last = chunk
        ended = [choice.index for choice in chunk.choices if choice.finish_reason is not None]
        pieces: list[bytes] = []
        done = 0
        for match, key in zip(_TEXT.finditer(event), self._keys(chunk, event), strict=False):
            text = msgspec.json.decode(match[2], type=str)
            running = self._texts.setdefault(key, RunningText(self._redactor))
            released = running.feed(text)
            if key[0] in ended:
                released += running.finish()
            if released != text:
                pieces += event[done : match.start(2)], msgspec.json.encode(released)
                done = match.end(2)
        held = b"".join(self._release(choice) for choice in ended)
        return held + b"".join([*pieces, event[done:]])

    def _keys(self, chunk: _Chunk, event: bytes) -> list[_Key]:
        """Return what each text of an event belongs to, in the order of the texts."""
        names = [match[1] for match in _TEXT.finditer(event)]
        if len(chunk.choices) == 1:
            choice = chunk.choices[0]
            calls = iter(choice.delta.tool_calls or () if choice.delta else ())
            return [
                (
                    choice.index,
                    next((call.index for call in calls if _has_arguments(call)), 0)
                    if name == b"arguments"
                    else 0,
                    name,
                )
                for name in names
            ]
        starts = [match.start() for match in re.finditer(rb'"delta"[ \t]*:', event)]
        keys: list[_Key] = []
        for match in _TEXT.finditer(event):
            position = sum(1 for start in starts if start < match.start()) - 1
            choice = chunk.choices[min(max(position, 0), len(chunk.choices) - 1)]
            keys.append((choice.index, 0, match[1]))
        return keys

    def _release(self, choice: int) -> bytes:
        """Return events with what was held back of a choice."""
        events = []
        for key in [key for key in self._texts if key[0] == choice]:
            rest = self._texts.pop(key).finish()
            if rest:
                events.append(self._made(key, rest))
        return b"".join(events)

    def _made(self, key: _Key, text: str) -> bytes:
        choice, call, name = key
        delta: dict[str, object] = {name.decode(): text}
        if name == b"arguments":
            delta = {"tool_calls": [{"index": call, "function": {"arguments": text}}]}
        event = {
            "id": self._last.id,
            "object": "chat.completion.chunk",
            "created": self._last.created,
            "model": self._last.model,
            "choices": [{"index": choice, "delta": delta, "finish_reason": None}],
        }
        return b"data: " + msgspec.json.encode(event) + b"\n\n"


def _has_arguments(call: _ToolCall) -> bool:
    return call.function is not None and call.function.arguments is not None
