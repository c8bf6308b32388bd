"""OpenAI's responses on the wire: what an answer says about itself. No byte is written anew."""

from typing import Any

import msgspec

from services.model.call import UNREADABLE, Facts, Usage
from services.model.failure import failed
from services.model.openai_chat import count
from services.model.sse import Event

_ENDINGS = frozenset({"response.completed", "response.incomplete"})
_FAILURES = frozenset({"error", "response.failed", "response.cancelled"})


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: float | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: float | None = None
    output_tokens: float | None = None
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Reasoned | None = None

    def counted(self) -> Usage | None:
        """Return the counts; None where a count that is charged cannot be true."""
        given, spoken = count(self.input_tokens), count(self.output_tokens)
        if given is None or spoken is None:
            return None
        cached = self.input_tokens_details or _Cached()
        reasoned = self.output_tokens_details or _Reasoned()
        return Usage(
            given,
            spoken,
            count(cached.cached_tokens) or 0,
            count(cached.cache_write_tokens) or 0,
            count(reasoned.reasoning_tokens) or 0,
        )


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Response(msgspec.Struct):
    model: str | None = None
    status: str | None = None
    output: list[Any] | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: Any = None

    def tell(self, facts: Facts) -> None:
        """Add to the facts what the response says about itself."""
        facts.model = self.model or facts.model
        if self.usage is not None:
            facts.usage = self.usage.counted()

    @property
    def finish_reason(self) -> str:
        """Why it ended, in the vendor's words."""
        incomplete = self.incomplete_details
        return (incomplete.reason if incomplete else None) or self.status or ""


class _Event(msgspec.Struct):
    type: str | None = None
    response: _Response | None = None
    delta: Any = None
    error: Any = None


_decode_whole = msgspec.json.Decoder(_Response).decode
_decode_event = msgspec.json.Decoder(_Event).decode


def read_answer(body: bytes) -> Facts:
    """Return what a whole response says about itself.

    Raises:
        ProviderError: it is not a response, or says that it failed.
    """
    try:
        whole = _decode_whole(body)
    except UNREADABLE:
        msg = "The provider's answer is not the JSON of an answer."
        raise failed(msg) from None
    if whole.output is None or whole.error is not None or whole.status == "failed":
        msg = "The provider sent an error in place of an answer."
        raise failed(msg)
    facts = Facts(finish_reason=whole.finish_reason)
    whole.tell(facts)
    if facts.usage is None:
        facts.answer_bytes = len(msgspec.json.encode(whole.output))
    return facts


class StreamWatch:
    """Watches a response's events; see `services.model.event_stream.Watch`.

    One event says that a response is complete, and nothing follows it.
    """

    def __init__(self) -> None:
        """See the class."""
        self.facts = Facts()
        self.started = False
        self.ending = b""

    @property
    def done(self) -> bool:
        """Whether the response is complete; nothing that follows is part of it."""
        return bool(self.ending)

    def take(self, event: Event) -> bytes:
        """Take the next event; return the bytes that may pass now, which may be none.

        Raises:
            ProviderError: the event is no JSON, or an error.
        """
        if event.data is None:
            return event.raw
        try:
            said = _decode_event(event.data)
        except UNREADABLE:
            msg = "The provider sent an event that is not JSON of an answer."
            raise failed(msg) from None
        if said.response is not None:
            said.response.tell(self.facts)
        if said.type is None or said.type in _FAILURES or said.error is not None:
            msg = "The provider ended the stream with an error."
            raise failed(msg)
        self.started = True
        if isinstance(said.delta, str):
            self.facts.answer_bytes += len(said.delta.encode())
        if said.type not in _ENDINGS:
            return event.raw
        response = said.response or _Response()
        self.facts.finish_reason = response.finish_reason or said.type.removeprefix("response.")
        self.ending = event.raw
        return b""
