"""OpenAI's API, and every server that speaks it: vLLM, TGI, Ollama, llama.cpp, Groq.

Bodies go out as they came, and come back as the provider sent them; the one edit is asking a
stream for its usage, which is taken out again when the client did not ask.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from services.common.clock import Clock
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Headers
from services.model.failure import ProviderError, failed, from_status, timed_out
from services.model.headers import from_provider, is_plain, to_provider
from services.model.openai_chat import StreamPlan, StreamWatch, plan_stream, premature, read_answer
from services.model.sse import Parser, SSEError
from services.model.upstream import Endpoint, Reply

_PATHS: Mapping[Dialect, str] = {
    Dialect.OPENAI_CHAT: "/chat/completions",
    Dialect.OPENAI_EMBEDDINGS: "/embeddings",
}
_OK = 200
_ERROR_BODY_S = 5.0
_DRAIN_S = 0.05


class OpenAI:
    """A server with OpenAI's API.

    Args:
        endpoint: its base URL, with the credential among its headers.
        clock: for `Retry-After` dates.
        ask_usage: whether to ask streams for their usage when the client did not.
        name: the provider's name in settings, records, metrics and health.
        prefix: returns what goes before the path for a model, as Azure's deployments want it.
    """

    dialects = frozenset(_PATHS)

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        *,
        ask_usage: bool = True,
        name: str = "openai",
        prefix: Callable[[str], str] | None = None,
    ) -> None:
        """See the class."""
        self.name = name
        self._endpoint = endpoint
        self._clock = clock
        self._ask_usage = ask_usage
        self._prefix = prefix

    async def generate(self, call: Call) -> Answer:
        """Return the whole answer."""
        path = self._path(call)
        async with await self._endpoint.post(path, call.body, _request_headers(call)) as reply:
            if reply.status != _OK:
                raise await self._refused(reply)
            _expect(reply, "application/json")
            body = await reply.read_all()
            return Answer(
                body,
                read_answer(body),
                _content_type(reply),
                from_provider(reply.headers.items()),
            )

    async def open(self, call: Call) -> "OpenAIStream":
        """Return the answer as a stream, once its first event is here."""
        plan = plan_stream(call.body, ask_usage=self._ask_usage)
        try:
            async with asyncio.timeout(self._endpoint.limits.first_byte_s):
                reply = await self._endpoint.post(
                    self._path(call), plan.body, _request_headers(call)
                )
                try:
                    return await self._begun(plan, reply)
                except BaseException:
                    await reply.aclose()
                    raise
        except TimeoutError:
            msg = "The provider did not begin to answer in time."
            raise timed_out(msg) from None

    async def _begun(self, plan: StreamPlan, reply: Reply) -> "OpenAIStream":
        if reply.status != _OK:
            raise await self._refused(reply)
        _expect(reply, "text/event-stream")
        stream = OpenAIStream(reply, StreamWatch(plan))
        await stream.prime()
        return stream

    async def _refused(self, reply: Reply) -> ProviderError:
        try:
            async with asyncio.timeout(_ERROR_BODY_S):
                body = await reply.read_all()
        except (TimeoutError, ProviderError):
            body = b""
        return from_status(
            reply.status, reply.headers, self._endpoint.clean(body), now=self._clock.time()
        )

    def _path(self, call: Call) -> str:
        path = _PATHS[call.dialect]
        return path if self._prefix is None else self._prefix(call.model) + path


class OpenAIStream:
    """A chat completion that arrives in events.

    Args:
        reply: the response, with nothing read of its body.
        watch: looks at each event.
    """

    def __init__(self, reply: Reply, watch: StreamWatch) -> None:
        """See the class."""
        self.content_type = _content_type(reply)
        self.headers: Headers = from_provider(reply.headers.items())
        self._reply = reply
        self._watch = watch
        self._parser = Parser()
        self._ready: deque[Chunk] = deque()
        self._failure: ProviderError | None = None

    @property
    def facts(self) -> Facts:
        """What the answer has said about itself so far."""
        return self._watch.facts

    async def prime(self) -> None:
        """Wait for the first event that is part of an answer.

        Raises:
            ProviderError: there is none.
        """
        while not self._watch.started:
            if self._failure is not None:
                raise self._failure
            self._take(await self._reply.read())

    async def read(self) -> Chunk | None:
        """Return the next events as soon as they are here; None once the answer is whole."""
        while not self._ready:
            if self._failure is not None:
                raise self._failure
            if self._watch.done:
                await self._drain()
                return None
            self._take(await self._reply.read())
        return self._ready.popleft()

    async def aclose(self) -> None:
        """Let go of the provider."""
        await self._reply.aclose()

    def _take(self, piece: bytes) -> None:
        """Turn a piece of the body into chunks; what came before a failure still passes."""
        passing: list[bytes] = []
        try:
            if not piece:
                self._parser.finish()
                raise premature()
            for event in self._parser.feed(piece):
                body = self._watch.take(event)
                if self._watch.done:
                    break
                passing.append(body)
        except ProviderError as error:
            self._failure = error
        except SSEError as error:
            self._failure = failed(str(error))
        if body := b"".join(passing):
            self._ready.append(Chunk(body))
        if self._watch.done:
            self._ready.append(Chunk(self._watch.ending, terminal=True))

    async def _drain(self) -> None:
        """Read the end of the body, so that the connection can serve again; never wait for it."""
        try:
            async with asyncio.timeout(_DRAIN_S):
                while await self._reply.read():
                    pass
        except (TimeoutError, ProviderError):
            return


def _request_headers(call: Call) -> Headers:
    headers = to_provider(call.headers)
    if is_plain(call.request_id):
        headers += (("x-request-id", call.request_id), ("x-client-request-id", call.request_id))
    return headers


def _content_type(reply: Reply) -> str:
    whole = reply.headers.get("content-type", "")
    return whole if is_plain(whole) else reply.content_type


def _expect(reply: Reply, content_type: str) -> None:
    if reply.content_type != content_type:
        msg = "The provider answered with a content type that was not asked for."
        raise failed(msg)
    if reply.headers.get("content-encoding", "identity") != "identity":
        msg = "The provider answered with a content encoding that was not asked for."
        raise failed(msg)
