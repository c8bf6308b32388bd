"""A provider that can be asked in more dialects than it speaks.

Requests are translated before they leave, answers and errors as they come back. A call in a dialect
that the provider speaks itself passes through untouched.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec

from services.common.clock import Clock
from services.model.call import UNREADABLE, Answer, Call, Chunk, Dialect, Facts, Headers, Usage
from services.model.dialects.ports import Asked, Events, Translator
from services.model.dialects.to_anthropic import ToAnthropic
from services.model.dialects.to_openai import ToOpenAI
from services.model.failure import VENDOR_BODY_LIMIT, ProviderError, failed, untranslatable
from services.model.ports import Provider, Stream
from services.model.sse import Parser
from services.model.usage import counted

LEFT_OUT = "x-weaver-left-out"
ESTIMATED = "x-weaver-estimated"
_LONGEST_LEFT_OUT = 512
_BETA = "anthropic-beta"
_VENDOR_BODY = "vendor_body"
_AT_ONCE = 256 * 1024
_Result = TypeVar("_Result")
_Answered = TypeVar("_Answered", Answer, Stream)


class Translating:
    """A provider, with the dialects that can be said in its own.

    Args:
        provider: what is asked in the end.
        clock: for the time in answers that must bear one.
        limit_field: in which a provider of OpenAI's dialect is told how long an answer may be.
    """

    def __init__(
        self, provider: Provider, clock: Clock, limit_field: str = "max_completion_tokens"
    ) -> None:
        """See the class."""
        translators: Mapping[Dialect, Translator] = {
            Dialect.ANTHROPIC_MESSAGES: ToOpenAI(limit_field),
            Dialect.OPENAI_CHAT: ToAnthropic(),
        }
        self.name = provider.name
        self._provider = provider
        self._clock = clock
        self._own = provider.dialects
        self._through = {
            dialect: translator
            for dialect, translator in translators.items()
            if dialect not in self._own and translator.dialect in self._own
        }
        self.dialects = self._own | frozenset(self._through)
        if Dialect.ANTHROPIC_MESSAGES in self.dialects:
            self.dialects |= {Dialect.ANTHROPIC_COUNT_TOKENS}

    def generate(self, call: Call) -> Coroutine[Any, Any, Answer]:
        """Return the whole answer."""
        if call.dialect in self._own:
            return self._provider.generate(call)
        if call.dialect is Dialect.ANTHROPIC_COUNT_TOKENS:
            return self._estimated(call)
        return self._translated(call)

    def open(self, call: Call) -> Coroutine[Any, Any, Stream]:
        """Return the answer as a stream, once its first event is here."""
        if call.dialect in self._own:
            return self._provider.open(call)
        return self._translated_stream(call)

    async def _translated(self, call: Call) -> Answer:
        translator = self._through[call.dialect]
        asked = await _away(len(call.body), partial(_asked, translator, call, self._now()))
        answer = await _asking(translator, self._provider.generate(_own(translator, asked)))
        try:
            work = partial(translator.answer, answer.body, answer.facts, asked)
            body = await _away(len(answer.body), lambda: msgspec.json.encode(work()))
        except UNREADABLE:
            msg = "The provider's answer is not the JSON of an answer."
            raise failed(msg) from None
        headers = (*answer.headers, *_left_out(asked))
        return Answer(body, answer.facts, headers=headers)

    async def _translated_stream(self, call: Call) -> Stream:
        translator = self._through[call.dialect]
        asked = await _away(len(call.body), partial(_asked, translator, call, self._now()))
        stream = await _asking(translator, self._provider.open(_own(translator, asked)))
        return TranslatedStream(stream, translator.events(asked), _left_out(asked))

    async def _estimated(self, call: Call) -> Answer:
        """Count tokens for a provider that does not; nothing leaves."""
        tokens = counted(Facts(), call.body).input_tokens
        body = msgspec.json.encode({"input_tokens": tokens, "estimated": True})
        return Answer(
            body, Facts(call.model, usage=Usage()), headers=((ESTIMATED, "input_tokens"),)
        )

    def _now(self) -> int:
        return int(self._clock.time())


class TranslatedStream:
    """A stream in the client's dialect.

    Args:
        stream: the provider's.
        events: translates what it says.
        headers: more response headers.
    """

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, stream: Stream, events: Events, headers: Headers) -> None:
        """See the class."""
        self.headers = (*stream.headers, *headers)
        self._stream = stream
        self._events = events
        self._ended = False

    @property
    def facts(self) -> Facts:
        """What the answer has said about itself so far."""
        return self._stream.facts

    async def read(self) -> Chunk | None:
        """Return the next events as soon as they are here; None once the answer is whole."""
        while (chunk := await self._stream.read()) is not None:
            try:
                said = [self._events.take(event.data) for event in Parser().feed(chunk.body)]
                if chunk.terminal:
                    said.append(self._events.finish(self._stream.facts))
            except UNREADABLE:
                msg = "The provider sent an event that is not JSON of an answer."
                raise failed(msg) from None
            if body := b"".join(said):
                return Chunk(body, terminal=chunk.terminal)
        return None

    async def aclose(self) -> None:
        """Let go of the provider."""
        await self._stream.aclose()


async def _away(size: int, work: Callable[[], _Result]) -> _Result:
    """Work on a body, off the event loop where it could take longer than a moment."""
    return work() if size <= _AT_ONCE else await asyncio.to_thread(work)


async def _asking(translator: Translator, asking: Awaitable[_Answered]) -> _Answered:
    """Wait for an answer; tell a refusal in the client's dialect."""
    try:
        return await asking
    except ProviderError as failure:
        metadata = dict(failure.error.metadata)
        if vendor := metadata.pop(_VENDOR_BODY, ""):
            retold = json.dumps(translator.error(json.loads(vendor)), separators=(",", ":"))
            if len(retold) <= VENDOR_BODY_LIMIT:
                metadata[_VENDOR_BODY] = retold
        failure.error.metadata = metadata
        raise


def _asked(translator: Translator, call: Call, created: int) -> Asked:
    left_out: set[str] = set()
    try:
        body = msgspec.json.encode(translator.request(call, left_out))
    except UNREADABLE:
        raise untranslatable("body", "must be the JSON of an object.") from None
    if any(name == _BETA for name, _ in call.headers):
        left_out.add(_BETA)
    return Asked(call, body, frozenset(left_out), created)


def _own(translator: Translator, asked: Asked) -> Call:
    return msgspec.structs.replace(asked.call, dialect=translator.dialect, body=asked.body)


def _left_out(asked: Asked) -> Headers:
    names = ", ".join(sorted(asked.left_out))
    return ((LEFT_OUT, names[:_LONGEST_LEFT_OUT]),) if names else ()
