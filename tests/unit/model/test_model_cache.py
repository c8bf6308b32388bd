"""The cache before a generator."""

import asyncio
from typing import Any

import msgspec
import pytest

from services.common.errors import NotFound, WeaverError
from services.model.cache.caching import CachePolicy, Caching
from services.model.cache.entry import Seal
from services.model.cache.streams import Room
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Usage
from services.model.failure import failed
from services.model.generation import Generator
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.usage import Prices
from tests.fakes.answers import CacheFigures, MemoryStore
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, FakeStream, Figures

CALL = Call(
    "r-1",
    Dialect.OPENAI_CHAT,
    "public",
    b'{"model":"public","temperature":0}',
    caller=("tenant", "apikey", "ann"),
)
AGAIN = msgspec.structs.replace(CALL, request_id="r-2")
GOOD = Answer(
    b'{"a":1}',
    Facts("m-1", "stop", Usage(10, 20)),
    headers=(("x-weaver-left-out", "seed"), ("x-upstream-request-id", "u")),
)
PRICES = Prices(1_000_000, 2_000_000)


class Cache:
    """A cache, and what it is made of."""

    def __init__(self, *script: Any, fingerprint: bytes = b"f", **policy: Any) -> None:
        self.provider = FakeProvider(*script)
        self.store = MemoryStore()
        self.figures = CacheFigures()
        self.spent = Figures()
        target = Target(self.provider, "public", PRICES)
        routes = Routes([Route("public", (target,), fingerprint=fingerprint)])
        generator = Generator(routes, RetryPolicy(0), LoopClock(), self.spent, self.spent)
        self.caching = Caching(
            generator,
            self.store,
            Seal(b"k" * 32),
            policy=CachePolicy(
                policy.get("time_to_live_s", 600.0), policy.get("max_entry_bytes", 1000)
            ),
            clock=LoopClock(),
            meter=self.figures,
        )

    async def streamed(self, call: Call = CALL) -> tuple[Any, list[Chunk], Any]:
        stream = await self.caching.open(call)
        chunks = []
        while (chunk := await stream.read()) is not None:
            chunks.append(chunk)
        generation = stream.generation()
        await stream.aclose()
        return stream, chunks, generation


def test_the_second_answer_costs_nothing_and_says_whose_it_is() -> None:
    cache = Cache(GOOD)

    async def main() -> Any:
        return await cache.caching.generate(CALL), await cache.caching.generate(AGAIN)

    (first, paid), (second, free) = run(main())

    assert first.body == second.body == GOOD.body
    assert second.content_type == "application/json"
    assert (paid.cache, paid.cache_of, paid.cost_micros) == ("miss", "", 50)
    assert (free.cache, free.cache_of, free.cost_micros) == ("hit", "r-1", 0)
    assert (free.usage, free.attempts, free.upstream_duration_s) == (Usage(), (), 0)
    assert (free.provider, free.model, free.finish_reason) == ("one", "m-1", "stop")
    assert free.price_version == PRICES.version
    assert ("x-weaver-cache", "miss") in first.headers
    assert second.headers == (
        ("x-weaver-left-out", "seed"),
        ("x-weaver-provider", "one"),
        ("x-weaver-attempts", "0"),
        ("x-weaver-cache", "hit"),
        ("age", "0"),
    )
    assert cache.figures.asked == ["miss", "hit"]
    assert cache.figures.saved == 50
    assert cache.spent.used == [Usage(10, 20)]
    assert cache.store.lives == [600.0]


def test_an_answer_is_never_given_to_somebody_else() -> None:
    cache = Cache(GOOD, GOOD)
    bob = msgspec.structs.replace(AGAIN, caller=("tenant", "apikey", "bob"))

    async def main() -> Any:
        await cache.caching.generate(CALL)
        return await cache.caching.generate(bob)

    assert run(main())[1].cache == "miss"


def test_a_request_that_is_not_deterministic_goes_past() -> None:
    cache = Cache(GOOD, FakeStream(Facts(), Chunk(b"x", terminal=True), None))
    warm = msgspec.structs.replace(CALL, body=b'{"model":"public","temperature":1}')

    async def main() -> Any:
        answer, generation = await cache.caching.generate(warm)
        return answer, generation, await cache.streamed(warm)

    answer, generation, (stream, _, streamed) = run(main())
    assert (generation.cache, streamed.cache, cache.store.kept) == ("", "", {})
    assert "x-weaver-cache" not in dict(answer.headers) | dict(stream.headers)


def test_an_old_answer_is_asked_for_again() -> None:
    cache = Cache(GOOD, GOOD, GOOD)
    young = msgspec.structs.replace(CALL, headers=(("cache-control", "max-age=20"),))
    fresh = msgspec.structs.replace(CALL, headers=(("cache-control", "no-cache"),))

    async def main() -> list[str]:
        found = [(await cache.caching.generate(CALL))[1].cache]
        await asyncio.sleep(20)
        found += [
            (await cache.caching.generate(call))[1].cache for call in (CALL, young, young, fresh)
        ]
        return found

    assert run(main()) == ["miss", "hit", "miss", "hit", "miss"]
    assert cache.figures.asked == ["miss", "hit", "stale", "hit", "refresh"]


def test_other_targets_are_asked_themselves() -> None:
    cache, other = Cache(GOOD), Cache(GOOD, fingerprint=b"g")
    other.store.kept = cache.store.kept

    async def main() -> Any:
        await cache.caching.generate(CALL)
        return await other.caching.generate(CALL)

    assert run(main())[1].cache == "miss"


def test_a_store_that_is_gone_is_a_miss() -> None:
    cache = Cache(GOOD, GOOD)
    cache.store.gone = True

    async def main() -> Any:
        await cache.caching.generate(CALL)
        return await cache.caching.generate(CALL)

    answer, generation = run(main())
    assert (answer.body, generation.cache) == (GOOD.body, "miss")
    assert cache.figures.asked == ["unavailable", "unavailable"]


def test_what_does_not_open_is_a_miss() -> None:
    cache = Cache(GOOD, GOOD)

    async def main() -> Any:
        await cache.caching.generate(CALL)
        cache.store.kept = dict.fromkeys(cache.store.kept, b"x" * 100)
        return await cache.caching.generate(CALL)

    assert run(main())[1].cache == "miss"
    assert cache.figures.asked == ["miss", "bad"]


def test_a_failure_is_not_kept() -> None:
    cache = Cache(failed("gone"), GOOD)

    async def main() -> Any:
        with pytest.raises(WeaverError):
            await cache.caching.generate(CALL)
        return await cache.caching.generate(CALL)

    assert run(main())[1].cache == "miss"


def test_an_unknown_model_is_not_asked_of_the_cache() -> None:
    cache = Cache()
    with pytest.raises(NotFound):
        run(cache.caching.generate(msgspec.structs.replace(CALL, model="other")))
    assert cache.figures.asked == []
    assert [route.name for route in cache.caching.routes] == ["public"]


def test_a_long_answer_is_not_kept() -> None:
    cache = Cache(GOOD, max_entry_bytes=6)
    run(cache.caching.generate(CALL))
    assert (cache.store.kept, cache.figures.kept) == ({}, ["too_large"])


def stream(*bodies: bytes, ends: bool = True) -> FakeStream:
    chunks = [Chunk(body) for body in bodies[:-1]]
    end = [Chunk(bodies[-1], terminal=True), None] if ends else [failed("cut")]
    return FakeStream(Facts("m-1", "stop", Usage(1, 2)), *chunks, *end)


def test_a_stream_is_given_again_event_for_event_and_ends_as_it_ended() -> None:
    large = b"x" * 40_000
    cache = Cache(
        stream(b"data: 1\n\n", large, b"data: 2\n\n", b"data: [DONE]\n\n"), max_entry_bytes=50_000
    )

    async def main() -> Any:
        return await cache.streamed(), await cache.streamed(AGAIN)

    (_, chunks, paid), (again, pieces, free) = run(main())

    assert b"".join(chunk.body for chunk in chunks) == b"".join(piece.body for piece in pieces)
    assert [piece.terminal for piece in pieces] == [False, False, True]
    assert pieces[-1].body == b"data: [DONE]\n\n"
    assert again.error is None
    assert again.content_type == "text/event-stream"
    assert dict(again.headers)["x-weaver-cache"] == "hit"
    assert (paid.cache, paid.cost_micros, paid.usage) == ("miss", 5, Usage(1, 2))
    assert (free.cache, free.cache_of, free.cost_micros, free.usage) == ("hit", "r-1", 0, Usage())


def test_a_stream_that_broke_off_is_not_kept() -> None:
    cache = Cache(stream(b"data: 1\n\n", b"", ends=False))
    opened, _, generation = run(cache.streamed())
    assert opened.error.reason == "PROVIDER_FAILED"
    assert (generation.cache, cache.store.kept, cache.figures.kept) == ("miss", {}, [])


def test_a_stream_whose_client_left_is_not_kept() -> None:
    cache = Cache(stream(b"data: 1\n\n", b"data: [DONE]\n\n"))

    async def main() -> None:
        opened = await cache.caching.open(CALL)
        await opened.read()
        await opened.aclose()

    run(main())
    assert cache.store.kept == {}
    assert cache.caching._room.held_bytes == 0


def test_a_long_stream_passes_and_is_not_kept() -> None:
    cache = Cache(stream(b"12345", b"67890", b"end"), max_entry_bytes=8)
    _, chunks, _ = run(cache.streamed())
    assert b"".join(chunk.body for chunk in chunks) == b"1234567890end"
    assert (cache.store.kept, cache.figures.kept) == ({}, ["too_large"])
    assert cache.caching._room.held_bytes == 0


def test_many_streams_at_once_hold_a_bounded_copy() -> None:
    figures = CacheFigures()
    room = Room(8, figures, most_bytes=10)
    assert room.take(8, 0)
    assert not room.take(3, 0)
    assert figures.kept == ["busy"]
    room.give_back(8)
    assert room.take(3, 0)
