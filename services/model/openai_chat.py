"""OpenAI's chat completions and embeddings on the wire: what an answer says about itself.

Only the fields that Weaver needs are decoded, into typed structs that forgive what vendors add or
leave out. No byte of a body is written anew; the one edit is asking a stream for its usage.
"""

from typing import Any

import msgspec

from services.common.errors import InvalidArgument
from services.model import splice
from services.model.call import UNREADABLE, Facts, Usage
from services.model.failure import failed
from services.model.sse import Event

MAX_HELD_BYTES = 2 * 1024 * 1024
# Beyond this a count is a provider's defect, and no record could hold what it costs.
MOST_TOKENS = 2**40
_DONE = b"[DONE]"
_ASK_USAGE = b'{"include_usage":true}'


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: float | None = None
    cache_write_tokens: float | None = None


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: float | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None

    def counted(self) -> Usage | None:
        """Return the counts; None where a count that is charged cannot be true."""
        prompt, completion = count(self.prompt_tokens), count(self.completion_tokens)
        if prompt is None or completion is None:
            return None
        cached = self.prompt_tokens_details or _Cached()
        reasoned = self.completion_tokens_details or _Reasoned()
        return Usage(
            prompt,
            completion,
            count(cached.cached_tokens) or 0,
            count(cached.cache_write_tokens) or 0,
            count(reasoned.reasoning_tokens) or 0,
        )


class _Said(msgspec.Struct, gc=False):
    content: Any = None
    reasoning_content: Any = None
    refusal: Any = None
    tool_calls: Any = None

    def size(self) -> int:
        fields = (self.content, self.reasoning_content, self.refusal, self.tool_calls)
        return sum(_size(value) for value in fields if value is not None)


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    delta: _Said | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class _WholeChoice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    choices: list[_WholeChoice] | None = None
    data: msgspec.Raw = msgspec.Raw()
    usage: _Usage | None = None
    model: str | None = None
    error: Any = None


class _SpokenChoice(msgspec.Struct, gc=False):
    message: _Said | None = None


class _Spoken(msgspec.Struct):
    choices: list[_SpokenChoice] | None = None


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _StreamRequest(msgspec.Struct, gc=False):
    stream: bool | None = None
    n: int | None = None
    stream_options: _StreamOptions | msgspec.UnsetType | None = msgspec.UNSET


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_whole = msgspec.json.Decoder(_Whole).decode
_decode_spoken = msgspec.json.Decoder(_Spoken).decode
_decode_request = msgspec.json.Decoder(_StreamRequest).decode


class StreamPlan(msgspec.Struct, frozen=True):
    """How a stream is asked for and watched.

    Args:
        body: what is sent to the provider.
        choices: how many answers are asked for.
        usage_added: whether the usage is asked for on Weaver's own account, so that the client
            does not get the event that carries it.
    """

    body: bytes
    choices: int
    usage_added: bool


def plan_stream(body: bytes, *, ask_usage: bool) -> StreamPlan:
    """Return how a stream is to be asked for.

    Raises:
        InvalidArgument: the body is no JSON object, or does not ask for a stream.
    """
    try:
        request = _decode_request(body)
    except UNREADABLE as error:
        sentence = f"stream, stream_options or n cannot be read: {error}"
        raise InvalidArgument.of_field(field="body", description=sentence) from None
    if request.stream is not True:
        raise InvalidArgument.of_field(field="stream", description="must be true for a stream.")
    choices = max(1, request.n or 1)
    options = request.stream_options
    if not ask_usage or (isinstance(options, _StreamOptions) and options.include_usage):
        return StreamPlan(body, choices, usage_added=False)
    if options is msgspec.UNSET:
        edited = splice.append_field(body, b"stream_options", _ASK_USAGE)
    else:
        present = splice.field(body, b"stream_options")
        merged = _ASK_USAGE
        if present is not None and present.startswith(b"{"):
            merged = splice.replace_field(present, b"include_usage", b"true")
        edited = splice.replace_field(body, b"stream_options", merged)
    return StreamPlan(edited, choices, usage_added=True)


def read_answer(body: bytes) -> Facts:
    """Return what a whole answer says about itself.

    Raises:
        ProviderError: it is not an answer.
    """
    try:
        whole = _decode_whole(body)
    except UNREADABLE:
        msg = "The provider's answer is not the JSON of an answer."
        raise failed(msg) from None
    if whole.error is not None or (
        whole.choices is None and not bytes(whole.data).startswith(b"[")
    ):
        msg = "The provider sent an error in place of an answer."
        raise failed(msg)
    facts = Facts(whole.model or "")
    if whole.choices:
        facts.finish_reason = whole.choices[0].finish_reason or ""
    if whole.usage is not None:
        facts.usage = whole.usage.counted()
    if facts.usage is None and whole.choices:
        facts.answer_bytes = _spoken_bytes(body)
    return facts


class StreamWatch:
    """Watches a stream's events: what may pass, what completes the answer, what it used.

    From the event with which the last answer finishes, events are held until `[DONE]`, and then
    make up the ending: so an answer never looks complete that is not.

    Args:
        plan: how the stream was asked for.
    """

    def __init__(self, plan: StreamPlan) -> None:
        """See the class."""
        self.facts = Facts()
        self.started = False
        """Whether a part of the answer has come, not just a comment."""
        self.ending = b""
        """The events that say that the answer is complete; empty until it is."""
        self._choices = plan.choices
        self._finished: set[int] = set()
        self._drop_usage = plan.usage_added
        self._held: list[bytes] = []
        self._held_bytes = 0

    @property
    def done(self) -> bool:
        """Whether the answer is complete; nothing that follows is part of it."""
        return bool(self.ending)

    def take(self, event: Event) -> bytes:
        """Take the next event; return the bytes that may pass now, which may be none.

        Raises:
            ProviderError: the event is no JSON, an error, or more than can be held.
        """
        data = event.data
        if data is None:
            return b"" if self._all_finished else event.raw
        if data == _DONE:
            self._finish(event.raw)
            return b""
        try:
            chunk = _decode_event(data)
        except UNREADABLE:
            msg = "The provider sent an event that is not JSON of an answer."
            raise failed(msg) from None
        if chunk.error is not None:
            msg = "The provider ended the stream with an error."
            raise failed(msg)
        self.started = True
        usage_only = self._note(chunk)
        raw = b"" if usage_only and self._drop_usage else event.raw
        if not self._all_finished:
            return raw
        self._hold(raw)
        return b""

    @property
    def _all_finished(self) -> bool:
        return len(self._finished) >= self._choices

    def _note(self, chunk: _Event) -> bool:
        """Note what an event says; return whether it carries the usage and nothing else."""
        facts = self.facts
        if chunk.model and not facts.model:
            facts.model = chunk.model
        if chunk.usage is not None:
            facts.usage = chunk.usage.counted() or facts.usage
        for choice in chunk.choices or ():
            if choice.delta is not None:
                facts.answer_bytes += choice.delta.size()
            if choice.finish_reason:
                self._finished.add(choice.index)
                facts.finish_reason = choice.finish_reason
        return chunk.usage is not None and not chunk.choices

    def _hold(self, raw: bytes) -> None:
        self._held.append(raw)
        self._held_bytes += len(raw)
        if self._held_bytes > MAX_HELD_BYTES:
            msg = "The provider goes on after the answer was finished."
            raise failed(msg)

    def _finish(self, raw: bytes) -> None:
        if not self._all_finished:
            msg = "The provider ended the stream before the answer was finished."
            raise failed(msg)
        self.ending = b"".join((*self._held, raw))


def _spoken_bytes(body: bytes) -> int:
    try:
        spoken = _decode_spoken(body)
    except UNREADABLE:
        return len(body)
    return sum(choice.message.size() for choice in spoken.choices or () if choice.message)


def _size(value: Any) -> int:  # noqa: ANN401 - text or any JSON
    return len(value.encode()) if isinstance(value, str) else len(msgspec.json.encode(value))


def count(tokens: float | None) -> int | None:
    """Return a provider's count; None for one that cannot be true."""
    if tokens is None:
        return 0
    return int(tokens) if 0 <= tokens <= MOST_TOKENS and tokens == int(tokens) else None
