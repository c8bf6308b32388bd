"""A provider without a network: the same prompt always gets the same answer.

It is for development, tests and load: it speaks OpenAI's chat completions, responses and embeddings
exactly, says the prompt back, and counts a word as a token. Nothing it says means anything.
"""

import asyncio
from collections import deque
from collections.abc import Iterator

import msgspec

from services.common.clock import Clock
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Headers, Usage
from services.model.openai_chat import plan_stream
from services.model.providers import stub_response
from services.model.providers.stub_answer import Reply, embed, refused, reply_to, respond_to

_encode = msgspec.json.encode


class StubSettings(msgspec.Struct, frozen=True):
    """How it behaves.

    Args:
        latency_s: silence before an answer or the first event.
        chunk_delay_s: silence before each further event.
        words: the length of an answer.
    """

    latency_s: float = 0.0
    chunk_delay_s: float = 0.0
    words: int = 16


class Stub:
    """The stub provider.

    Args:
        clock: for the `created` field of answers.
        settings: how it behaves.
    """

    name = "stub"
    dialects = frozenset({Dialect.OPENAI_CHAT, Dialect.OPENAI_RESPONSES, Dialect.OPENAI_EMBEDDINGS})

    def __init__(self, clock: Clock, settings: StubSettings | None = None) -> None:
        """See the class."""
        self._clock = clock
        self._settings = settings or StubSettings()

    async def generate(self, call: Call) -> Answer:
        """Return the whole answer."""
        if self._settings.latency_s:
            await asyncio.sleep(self._settings.latency_s)
        if call.dialect is Dialect.OPENAI_EMBEDDINGS:
            return embed(call)
        if call.dialect is Dialect.OPENAI_RESPONSES:
            reply = respond_to(call.body, self._settings.words)
            body = stub_response.whole(call.model, int(self._clock.time()), reply)
            return Answer(body, Facts(call.model, reply.finish_reason, reply.usage))
        reply = reply_to(call.body, self._settings.words)
        choice = b'"message":{"role":"assistant","content":%b,"refusal":null},' % _encode(
            "".join(reply.words)
        )
        choice += b'"logprobs":null,"finish_reason":"%b"}' % reply.finish_reason.encode()
        body = b'%b"choices":[%b],"usage":%b}' % (
            self._head(call, reply, b"chat.completion"),
            b",".join(b'{"index":%d,%b' % (index, choice) for index in range(reply.choices)),
            _usage(reply.usage),
        )
        return Answer(body, Facts(call.model, reply.finish_reason, reply.usage))

    async def open(self, call: Call) -> "StubStream":
        """Return the answer as a stream."""
        if self._settings.latency_s:
            await asyncio.sleep(self._settings.latency_s)
        if call.dialect is Dialect.OPENAI_RESPONSES:
            reply = respond_to(call.body, self._settings.words)
            chunks = stub_response.streamed(call.model, int(self._clock.time()), reply)
            facts = Facts(call.model, reply.finish_reason, reply.usage)
            return StubStream(chunks, facts, self._settings.chunk_delay_s)
        plan_stream(call.body, ask_usage=False)
        if call.dialect is not Dialect.OPENAI_CHAT:
            raise refused(param="stream", message="Embeddings do not stream.")
        reply = reply_to(call.body, self._settings.words)
        head = b"data: " + self._head(call, reply, b"chat.completion.chunk")
        facts = Facts(call.model, reply.finish_reason, reply.usage)
        return StubStream(_chunks(head, reply), facts, self._settings.chunk_delay_s)

    def _head(self, call: Call, reply: Reply, kind: bytes) -> bytes:
        return (
            b'{"id":"chatcmpl-stub-%b","object":"%b","created":%d,"model":%b,'
            b'"system_fingerprint":"fp_stub",'
        ) % (reply.tag, kind, int(self._clock.time()), _encode(call.model))


class StubStream:
    """An answer in events, word by word.

    Args:
        chunks: what is said.
        facts: what is known about it.
        delay_s: silence before each event but the first.
    """

    content_type = "text/event-stream"
    headers: Headers = ()

    def __init__(self, chunks: Iterator[Chunk], facts: Facts, delay_s: float) -> None:
        """See the class."""
        self.facts = facts
        self._chunks = deque(chunks)
        self._delay_s = delay_s
        self._first = True

    async def read(self) -> Chunk | None:
        """Return the next event; None at the end."""
        if self._delay_s and not self._first:
            await asyncio.sleep(self._delay_s)
        self._first = False
        return self._chunks.popleft() if self._chunks else None

    async def aclose(self) -> None:
        """Forget the rest."""
        self._chunks.clear()


def _chunks(head: bytes, reply: Reply) -> Iterator[Chunk]:
    null_usage = b',"usage":null' if reply.stream_usage else b""
    start = head + b'"choices":[{"index":%d,"delta":{%b},"logprobs":null,"finish_reason":%b}]'
    end = null_usage + b"}\n\n"
    choices = range(reply.choices)
    for index in choices:
        yield Chunk(start % (index, b'"role":"assistant","content":""', b"null") + end)
    for word in reply.words:
        said = b'"content":' + _encode(word)
        for index in choices:
            yield Chunk(start % (index, said, b"null") + end)
    reason = b'"%b"' % reply.finish_reason.encode()
    ending = [start % (index, b"", reason) + end for index in choices]
    if reply.stream_usage:
        ending.append(b'%b"choices":[],"usage":%b}\n\n' % (head, _usage(reply.usage)))
    ending.append(b"data: [DONE]\n\n")
    yield Chunk(b"".join(ending), terminal=True)


def _usage(usage: Usage) -> bytes:
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
        usage.input_tokens,
        usage.output_tokens,
        usage.input_tokens + usage.output_tokens,
    )
