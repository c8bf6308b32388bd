"""Personal data taken out of streams whose events name their type.

Anthropic's messages and OpenAI's responses send texts in pieces; each text runs through a
`RunningText` of its own. What is held back is released in an event made for it, just before the
one that ends the text. Whatever else an event says is searched as it is; everything with nothing to
hide stays byte for byte.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator
from typing import Any, Final

import msgspec

from services.gateway.log_probabilities import scrubbed, spells
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText
from services.gateway.stream_template import Template

# Lines of server-sent events end with any of three; atomic, so that one CRLF is not taken for two.
EVENT_END: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LINE: Final = re.compile(rb"[^\r\n]+")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Event = dict[str, Any]


class EventRedactor(ABC):
    """Redacts the events of one stream; a subclass knows a dialect.

    Args:
        redactor: the request's.
    """

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._texts: dict[Hashable, RunningText] = {}
        self._last: dict[Hashable, _Event] = {}
        self._template = Template(redactor)

    def events(self, body: bytes) -> bytes:
        """Take whole server-sent events and return what can be released of them."""
        pieces: list[bytes] = []
        done = 0
        for end in EVENT_END.finditer(body):
            event = body[done : end.end()]
            known = self._template.event(event, empty=False)
            pieces.append(self._event(event) if known is None else known)
            done = end.end()
        return b"".join([*pieces, body[done:]])

    @abstractmethod
    def piece(self, event: _Event) -> tuple[Hashable, str] | None:
        """Return what text an event adds to, and the piece; None when it adds to none."""

    @abstractmethod
    def with_piece(self, event: _Event, text: str) -> _Event:
        """Return an event with another piece of text."""

    @abstractmethod
    def ended(self, event: _Event) -> Iterator[Hashable]:
        """Yield the texts that an event ends."""

    @abstractmethod
    def arguments(self, key: Hashable) -> bool:
        """Say whether a text is a tool's arguments, which are JSON."""

    def passes(self, event: _Event) -> bool:
        """Whether an event holds nothing but what must not be changed, such as a signature."""
        return not event

    def _event(self, raw: bytes) -> bytes:
        lines = LINE.findall(raw)
        data = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        try:
            # A line break between the lines of data is white space of the JSON that they make up.
            event = msgspec.json.decode(b" ".join(data))
        except _UNREADABLE:
            event = None
        if not isinstance(event, dict):
            return b"".join(self._plain(line) + b"\n" for line in lines) + b"\n"
        self._template.forget()
        held = b"".join(self._release(key) for key in tuple(self.ended(event)))
        if self.passes(event):
            return held + raw
        found = self.piece(event)
        if found is not None:
            return held + self._piece(raw, event, *found)
        return held + self._searched(raw)

    def _piece(self, raw: bytes, event: _Event, key: Hashable, text: str) -> bytes:
        """Take a piece of a text and return the event with what can be released of it."""
        running = self._texts.get(key)
        if running is None:
            running = RunningText(self._redactor, arguments=self.arguments(key))
            self._texts[key] = running
        self._last[key] = event
        # Only where the text stands once is it plain which string is the piece.
        literal = msgspec.json.encode(text)
        start = raw.rfind(literal)
        alone = len(text) > 0 and raw.count(literal) == 1 and raw[:start].rstrip().endswith(b":")
        if alone:
            self._template.remember(raw, start, start + len(literal), running)
        released = running.feed(text)
        if not released and text:
            return b""
        if released == text:
            return self._searched(raw)
        if alone and not spells(raw):
            return self._searched(
                raw[:start] + msgspec.json.encode(released) + raw[start + len(literal) :]
            )
        return self._made(self.with_piece(event, released))

    def _searched(self, raw: bytes) -> bytes:
        """Return an event with what stands in it as a whole redacted."""
        redacted = self._redactor.json(raw)
        if redacted is raw or b'"logprobs"' not in redacted:
            return redacted
        data = [line[5:] for line in LINE.findall(redacted) if line.startswith(b"data:")]
        return self._made(scrubbed(msgspec.json.decode(b" ".join(data))))

    def _release(self, key: Hashable) -> bytes:
        """Return an event with what was held back of a text."""
        running, last = self._texts.pop(key, None), self._last.pop(key, None)
        rest = running.finish() if running is not None else ""
        return self._made(self.with_piece(last, rest)) if rest and last is not None else b""

    def _plain(self, line: bytes) -> bytes:
        return self._redactor.text(line.decode("utf-8", "replace")).encode()

    def _made(self, event: _Event) -> bytes:
        known = msgspec.json.decode(self._redactor.json(msgspec.json.encode(event)))
        kind = str(known.get("type", "message")).encode()
        return b"event: %b\ndata: %b\n\n" % (kind, msgspec.json.encode(known))


class MessageRedactor(EventRedactor):
    """Redacts the events of Anthropic's messages."""

    _FIELDS: Final = {
        "text_delta": "text",
        "thinking_delta": "thinking",
        "input_json_delta": "partial_json",
    }

    def piece(self, event: _Event) -> tuple[Hashable, str] | None:
        """Return a block's piece."""
        delta = event.get("delta")
        if event.get("type") != "content_block_delta" or not isinstance(delta, dict):
            return None
        field = self._FIELDS.get(str(delta.get("type")), "")
        text = delta.get(field)
        return ((event.get("index"), field), text) if isinstance(text, str) else None

    def with_piece(self, event: _Event, text: str) -> _Event:
        """Return an event with another piece of its block."""
        delta = event["delta"]
        return event | {"delta": delta | {self._FIELDS[delta["type"]]: text}}

    def arguments(self, key: Hashable) -> bool:
        """Say whether a text is a tool's input."""
        return isinstance(key, tuple) and key[1] == "partial_json"

    def ended(self, event: _Event) -> Iterator[Hashable]:
        """Yield a block's texts at its end, and all that is left at the end of the message."""
        kind = event.get("type")
        for key in self._texts:
            assert isinstance(key, tuple)  # noqa: S101 - as `piece` made it
            if kind == "message_delta" or (
                kind == "content_block_stop" and key[0] == event.get("index")
            ):
                yield key

    def passes(self, event: _Event) -> bool:
        """Whether an event is a signature, which a change would make worthless."""
        delta = event.get("delta")
        return isinstance(delta, dict) and delta.get("type") == "signature_delta"


class ResponseRedactor(EventRedactor):
    """Redacts the events of OpenAI's responses.

    The pieces of a text come as `<what>.delta`, and `<what>.done` repeats it whole.
    """

    _PLACES: Final = ("item_id", "output_index", "content_index", "summary_index")

    def piece(self, event: _Event) -> tuple[Hashable, str] | None:
        """Return the piece of a delta."""
        text, kind = event.get("delta"), str(event.get("type"))
        if not isinstance(text, str) or not kind.endswith(".delta") or "audio.delta" in kind:
            return None
        return self._key(event, kind.removesuffix(".delta")), text

    def with_piece(self, event: _Event, text: str) -> _Event:
        """Return an event with another piece; log probabilities would spell the one before."""
        event = event | {"delta": text}
        return event | {"logprobs": []} if "logprobs" in event else event

    def arguments(self, key: Hashable) -> bool:
        """Say whether a text is a function's arguments."""
        return isinstance(key, tuple) and "arguments" in key[0]

    def ended(self, event: _Event) -> Iterator[Hashable]:
        """Yield the text that is done, and all that is left at the end of the response."""
        kind = str(event.get("type"))
        if kind in {"response.completed", "response.incomplete"}:
            yield from self._texts
        elif kind.endswith(".done"):
            yield self._key(event, kind.removesuffix(".done"))

    def _key(self, event: _Event, kind: str) -> Hashable:
        return (kind, *(str(event.get(place)) for place in self._PLACES))
