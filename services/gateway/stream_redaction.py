"""Personal data taken out of a stream of OpenAI chat completion events.

Texts come in pieces; each text of a stream (a choice's content, each tool call's arguments, …) runs
through a `RunningText` of its own. What is held back is released with the event that ends the
choice, or in an event made for it just before. Whatever else an event says is searched as it is;
everything with nothing to hide stays byte for byte.
"""

import re
from typing import Any, Final

import msgspec

from services.gateway.log_probabilities import without_logprobs
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText
from services.gateway.stream_template import Template

# Lines of server-sent events end with any of three; atomic, so that one CRLF is not taken for two.
_EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE: Final = re.compile(rb"[^\r\n]+")
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
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None

    @property
    def says(self) -> bool:
        """Whether it adds to a text too."""
        return bool(self.content or self.reasoning_content or self.reasoning)


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

    __slots__ = ("_last", "_redactor", "_template", "_texts")

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._texts: dict[_Key, RunningText] = {}
        self._last = _Chunk()
        self._template = Template(redactor)

    def events(self, body: bytes) -> bytes:
        """Take whole server-sent events and return what can be released of them."""
        pieces: list[bytes] = []
        done = 0
        for end in _EVENT_END.finditer(body):
            event = body[done : end.end()]
            known = self._template.event(event, empty=True)
            pieces.append(self._event(event) if known is None else known)
            done = end.end()
        return b"".join([*pieces, body[done:]])

    def finish(self) -> bytes:
        """Return events with all that was held back: the stream is over."""
        return b"".join(self._release(choice) for choice in sorted({key[0] for key in self._texts}))

    def _event(self, event: bytes) -> bytes:
        """Take one event: its data as a chunk, whatever else it says as plain text."""
        lines = list(_LINE.finditer(event))
        data = [line for line in lines if line.group().startswith(b"data:")]
        if len(data) == 1 and len(lines) == 1:
            start, end = data[0].start() + 5, data[0].end()
            return self._chunk(event[:start], event[start:end], event[end:])
        rest = b"".join(self._plain(line.group()) + b"\n" for line in lines if line not in data)
        if not data:
            return rest + b"\n"
        # A line break between the lines of data is white space of the JSON that they make up.
        joined = b" ".join(line.group()[5:].strip() for line in data)
        return self._chunk(rest + b"data: ", joined, b"\n\n")

    def _plain(self, line: bytes) -> bytes:
        return self._redactor.text(line.decode("utf-8", "replace")).encode()

    def _chunk(self, before: bytes, data: bytes, after: bytes) -> bytes:
        """Take the data of one event, between what stands before and after it."""
        if data.strip() == b"[DONE]":
            return before + data + after
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return before + self._plain(data) + after
        if not chunk.choices:
            return before + self._redactor.json(data) + after
        self._last = chunk
        # Some servers send an empty reason with every event.
        ended = [choice.index for choice in chunk.choices if choice.finish_reason]
        overtaken = b"".join(map(self._overtaken, chunk.choices))
        pieces: list[bytes] = []
        done = 0
        self._template.forget()
        matches = list(_TEXT.finditer(data))
        for match, key in zip(matches, self._keys(chunk, data), strict=False):
            text = msgspec.json.decode(match[2], type=str)
            running = self._texts.get(key)
            if running is None:
                arguments = key[2] == b"arguments"
                running = self._texts[key] = RunningText(self._redactor, arguments=arguments)
            if len(matches) == 1 and not ended:
                start = len(before) + match.start(2)
                end = start + match.end(2) - match.start(2)
                self._template.remember(before + data + after, start, end, running)
            released = running.feed(text)
            if key[0] in ended:
                released += running.finish()
            if released != text:
                pieces += data[done : match.start(2)], msgspec.json.encode(released)
                done = match.end(2)
        held = b"".join(self._release(choice) for choice in ended)
        if pieces:
            data = without_logprobs(b"".join([*pieces, data[done:]]))
        return overtaken + held + before + self._redactor.json(data) + after

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

    def _overtaken(self, choice: _Choice) -> bytes:
        """Return events with what was held of texts that are over, since tools are called now.

        Clients take a text for complete at the first call that follows it.
        """
        if choice.delta is None or not choice.delta.tool_calls or choice.delta.says:
            return b""
        keys = [key for key in self._texts if key[0] == choice.index and key[2] != b"arguments"]
        return b"".join(map(self._release_text, keys))

    def _release(self, choice: int) -> bytes:
        """Return events with what was held back of a choice."""
        return b"".join(map(self._release_text, [key for key in self._texts if key[0] == choice]))

    def _release_text(self, key: _Key) -> bytes:
        rest = self._texts.pop(key).finish()
        return self._made(key, rest) if rest else b""

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
