"""A provider's answer in server-sent events, whatever its dialect.

A watch knows the dialect: it says which bytes may pass, and which events say that the answer is
complete. Those are held back until nothing can go wrong any more. What passes is what came, byte
for byte.
"""

import asyncio
from collections import deque
from typing import Protocol

from services.model.call import Chunk, Facts, Headers
from services.model.failure import ProviderError, failed
from services.model.sse import Event, Parser, SSEError
from services.model.upstream import Reply

_DRAIN_S = 0.05


class Watch(Protocol):
    """Looks at each event of one stream."""

    @property
    def facts(self) -> Facts:
        """What the answer has said about itself so far."""
        ...

    @property
    def started(self) -> bool:
        """Whether a part of the answer has come, not just a comment."""
        ...

    @property
    def ending(self) -> bytes:
        """The events that say that the answer is complete; empty until it is."""
        ...

    @property
    def done(self) -> bool:
        """Whether the answer is complete; nothing that follows is part of it."""
        ...

    def take(self, event: Event) -> bytes:
        """Take the next event; return the bytes that may pass now, which may be none.

        Raises:
            ProviderError: the event is no JSON, an error, or more than can be held.
        """
        ...


class EventStream:
    """An answer that arrives in events; see `services.model.ports.Stream`.

    Args:
        reply: the response, with nothing read of its body.
        watch: looks at each event.
        content_type: the response's, whole.
        headers: what may pass of the response's headers.
    """

    def __init__(self, reply: Reply, watch: Watch, content_type: str, headers: Headers) -> None:
        """See the class."""
        self.content_type = content_type
        self.headers = headers
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
            events = self._parser.feed(piece) if piece else self._parser.finish()
            if not piece and not events:
                raise premature()
            for event in events:
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


def premature() -> ProviderError:
    """Return the failure of a stream that ends without its terminator."""
    return failed("The provider's stream ends before the answer is complete.")
