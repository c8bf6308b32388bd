"""A generator of answers that first looks whether it has given the same answer before.

It stands before `services.model.generation.Generator` and asks it for whatever is not kept. What it
gives out again cost nothing and used nothing: the record of a hit says so, and names the request
whose record tells what the answer once cost.
"""

import msgspec

from services.common.clock import Clock
from services.model.cache.entry import Entry, Seal
from services.model.cache.ports import CacheMeter, Store, StoreGoneError
from services.model.cache.streams import (
    HIT,
    MISS,
    CollectedStream,
    Keep,
    ReplayedStream,
    Room,
    hit,
)
from services.model.cache.wish import oldest_s
from services.model.call import Answer, Call, Facts, Generation, Headers
from services.model.generation import Generator
from services.model.ports import AnswerStream
from services.model.route import Routes

HEADER = "x-weaver-cache"
_OF_THE_ANSWER = frozenset({"x-weaver-left-out", "x-weaver-estimated"})
"""Headers that belong to an answer, whoever is given it."""


class CachePolicy(msgspec.Struct, frozen=True):
    """What is kept, and how long.

    Args:
        time_to_live_s: how long.
        max_entry_bytes: the longest answer.
    """

    time_to_live_s: float
    max_entry_bytes: int


class Caching:
    """Answers calls, from the cache where it can.

    Args:
        generator: answers the others.
        store: keeps the answers.
        seal: names and seals them.
        policy: which are kept, and how long.
        clock: for their age.
        meter: counts.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour
        self,
        generator: Generator,
        store: Store,
        seal: Seal,
        *,
        policy: CachePolicy,
        clock: Clock,
        meter: CacheMeter,
    ) -> None:
        """See the class."""
        self._generator = generator
        self._store = store
        self._seal = seal
        self._policy = policy
        self._clock = clock
        self._meter = meter
        self._room = Room(policy.max_entry_bytes, meter)

    @property
    def routes(self) -> Routes:
        """The public models."""
        return self._generator.routes

    async def generate(self, call: Call) -> tuple[Answer, Generation]:
        """Return the whole answer and what is known about it.

        Raises:
            WeaverError: there is none, in the words that the caller is told.
        """
        oldest = oldest_s(call, self._policy.time_to_live_s)
        if oldest is None:
            return await self._generator.generate(call)
        name = self._name(call)
        entry = await self._find(name, oldest)
        if entry is not None:
            headers = self._headers(entry)
            body = b"".join(entry.pieces)
            return Answer(body, Facts(), entry.content_type, headers), hit(entry)
        answer, generation = await self._generator.generate(call)
        if len(answer.body) > self._policy.max_entry_bytes:
            self._meter.cache_kept("too_large")
        else:
            self._keeper(name, call, answer)((answer.body,), generation)
        headers = (*answer.headers, (HEADER, MISS))
        return (
            msgspec.structs.replace(answer, headers=headers),
            msgspec.structs.replace(generation, cache=MISS),
        )

    async def open(self, call: Call) -> AnswerStream:
        """Return the answer as a stream, once its first event is here.

        Raises:
            WeaverError: there is none, in the words that the caller is told.
        """
        oldest = oldest_s(call, self._policy.time_to_live_s)
        if oldest is None:
            return await self._generator.open(call)
        name = self._name(call)
        entry = await self._find(name, oldest)
        if entry is not None:
            return ReplayedStream(entry, self._headers(entry))
        stream = await self._generator.open(call)
        headers = (*stream.headers, (HEADER, MISS))
        return CollectedStream(stream, headers, self._room, self._keeper(name, call, stream))

    async def _find(self, name: bytes, oldest: float) -> Entry | None:
        """Return what is kept under a name and young enough; whatever goes wrong is a miss."""
        if oldest <= 0:
            self._meter.cache_asked("refresh")
            return None
        try:
            sealed = await self._store.get(name)
        except StoreGoneError:
            self._meter.cache_asked("unavailable")
            return None
        if sealed is None:
            self._meter.cache_asked(MISS)
            return None
        entry = self._seal.open(name, sealed)
        if entry is None or not entry.pieces:
            self._meter.cache_asked("bad")
            return None
        if self._age_s(entry) >= oldest:
            self._meter.cache_asked("stale")
            return None
        self._meter.cache_asked(HIT)
        self._meter.cache_saved(entry.cost_micros)
        return entry

    def _name(self, call: Call) -> bytes:
        """Return the name of a call's answer.

        Raises:
            NotFound: nobody declared the model.
        """
        return self._seal.name(call, self._generator.routes.find(call.model).fingerprint)

    def _age_s(self, entry: Entry) -> float:
        return max(0.0, self._clock.time() - entry.kept_s)

    def _headers(self, entry: Entry) -> Headers:
        return (
            *entry.headers,
            ("x-weaver-provider", entry.provider),
            ("x-weaver-attempts", "0"),
            (HEADER, HIT),
            ("age", str(int(self._age_s(entry)))),
        )

    def _keeper(self, name: bytes, call: Call, answer: Answer | AnswerStream) -> Keep:
        """Return what keeps an answer, given its body and what is known of the call."""
        content_type = answer.content_type
        headers = tuple(one for one in answer.headers if one[0] in _OF_THE_ANSWER)

        def keep(pieces: tuple[bytes, ...], generation: Generation) -> None:
            entry = Entry(
                pieces,
                content_type,
                headers,
                call.request_id,
                self._clock.time(),
                generation.provider,
                generation.model,
                generation.cost_micros,
                generation.price_version,
                generation.finish_reason,
            )
            self._store.put(name, self._seal.close(name, entry), self._policy.time_to_live_s)

        return keep
