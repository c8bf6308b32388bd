"""Anthropic's messages on the wire: what an answer says about itself.

Only the fields that Weaver needs are decoded, into typed structs that forgive what vendors add or
leave out. No byte is written anew.
"""

from typing import Any

import msgspec

from services.common.errors import ResourceExhausted
from services.model.call import UNREADABLE, Facts, Usage
from services.model.failure import ProviderError, failed, rejected
from services.model.openai_chat import MAX_HELD_BYTES, count
from services.model.sse import Event
from services.model.usage import BYTES_PER_TOKEN


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: float | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_creation_input_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    output_tokens_details: _Details | None = None

    def over(self, before: "_Usage") -> "_Usage":
        """Return these counts, with those from before where one is not said again."""
        values = {
            name: after if (after := getattr(self, name)) is not None else getattr(before, name)
            for name in self.__struct_fields__
        }
        return _Usage(**values)

    def counted(self) -> Usage | None:
        """Return the counts, cached tokens among the others; None where one cannot be true."""
        fresh, output = count(self.input_tokens), count(self.output_tokens)
        cached = count(self.cache_read_input_tokens)
        written = count(self.cache_creation_input_tokens)
        if fresh is None or output is None or cached is None or written is None:
            return None
        details = self.output_tokens_details or _Details()
        reasoning = count(details.thinking_tokens) or 0
        return Usage(fresh + cached + written, output, cached, written, reasoning)


class _Whole(msgspec.Struct):
    type: str | None = None
    model: str | None = None
    content: list[Any] | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Count(msgspec.Struct):
    input_tokens: int


class _Error(msgspec.Struct):
    type: str | None = None
    message: str | None = None


class _Delta(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None

    def size(self) -> int:
        said = (self.text, self.thinking, self.partial_json)
        return sum(len(text.encode()) for text in said if text)


class _Event(msgspec.Struct):
    type: str | None = None
    message: _Whole | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_count = msgspec.json.Decoder(_Count).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def read_answer(body: bytes) -> Facts:
    """Return what a whole message says about itself.

    Raises:
        ProviderError: it is not a message.
    """
    try:
        whole = _decode_whole(body)
    except UNREADABLE:
        msg = "The provider's answer is not the JSON of an answer."
        raise failed(msg) from None
    if whole.type == "error" or whole.content is None:
        msg = "The provider sent an error in place of an answer."
        raise failed(msg)
    facts = Facts(whole.model or "", whole.stop_reason or "")
    if whole.usage is not None:
        facts.usage = whole.usage.counted()
    if facts.usage is None:
        facts.answer_bytes = len(msgspec.json.encode(whole.content))
    return facts


def read_count(body: bytes) -> Facts:
    """Return what a count of tokens says about itself: it used nothing.

    Raises:
        ProviderError: it is not a count.
    """
    try:
        _decode_count(body)
    except UNREADABLE:
        msg = "The provider's answer is not the JSON of an answer."
        raise failed(msg) from None
    return Facts(usage=Usage())


class StreamWatch:
    """Watches a message's events; see `services.model.event_stream.Watch`.

    From the event that says why the message ends, events are held until `message_stop`, and then
    make up the ending: so an answer never looks complete that is not.
    """

    def __init__(self) -> None:
        """See the class."""
        self.started = False
        self.ending = b""
        self._facts = Facts()
        self._usage = _Usage()
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def facts(self) -> Facts:
        """What the message has said about itself so far.

        Until its end is here, its tokens are counted in what it said: the first event counts none.
        """
        facts = self._facts
        if facts.usage is None and self.started and (begun := self._usage.counted()) is not None:
            spoken = max(begun.output_tokens, -(-facts.answer_bytes // BYTES_PER_TOKEN))
            usage = msgspec.structs.replace(begun, output_tokens=spoken, estimated=True)
            return Facts(facts.model, facts.finish_reason, usage, facts.answer_bytes)
        return facts

    @property
    def done(self) -> bool:
        """Whether the message is complete; nothing that follows is part of it."""
        return bool(self.ending)

    def take(self, event: Event) -> bytes:
        """Take the next event; return the bytes that may pass now, which may be none.

        Raises:
            ProviderError: the event is no JSON, an error, or more than can be held.
        """
        said = None if event.data is None else _decoded(event.data)
        if said is not None:
            if said.type == "error" or said.error is not None:
                raise _failure(said.error or _Error(), event.data or b"")
            self._note(said)
            if said.type == "message_stop":
                self._finish(event.raw)
                return b""
        if not self._facts.finish_reason:
            return event.raw
        self._hold(event.raw)
        return b""

    def _note(self, said: _Event) -> None:
        facts = self._facts
        if said.type == "message_start" and said.message is not None:
            self.started = True
            facts.model = said.message.model or ""
            self._usage = said.message.usage or self._usage
        elif said.type == "content_block_delta" and said.delta is not None:
            facts.answer_bytes += said.delta.size()
        elif said.type == "message_delta":
            self._usage = (said.usage or _Usage()).over(self._usage)
            if said.delta is not None and said.delta.stop_reason:
                facts.finish_reason = said.delta.stop_reason
                if said.usage is not None:
                    facts.usage = self._usage.counted()

    def _hold(self, raw: bytes) -> None:
        self._held.append(raw)
        self._held_bytes += len(raw)
        if self._held_bytes > MAX_HELD_BYTES:
            msg = "The provider goes on after the answer was finished."
            raise failed(msg)

    def _finish(self, raw: bytes) -> None:
        if not self._facts.finish_reason:
            msg = "The provider ended the stream before the answer was finished."
            raise failed(msg)
        self.ending = b"".join((*self._held, raw))


def _decoded(data: bytes) -> _Event:
    try:
        return _decode_event(data)
    except UNREADABLE:
        msg = "The provider sent an event that is not JSON of an answer."
        raise failed(msg) from None


def _failure(error: _Error, data: bytes) -> ProviderError:
    """Return what an error event stands for; before the first byte it may be worth another try."""
    if error.type == "rate_limit_error":
        throttled = ResourceExhausted("The provider throttles.", reason="PROVIDER_THROTTLED")
        return ProviderError(throttled, retryable=True)
    if error.type == "invalid_request_error":
        return rejected(400, data)
    return failed("The provider ended the stream with an error.")
