"""Events get numbers without a hole, and are never lost once they have one."""

import asyncio

import pytest

from services.common.errors import AlreadyExists, ResourceExhausted, Unavailable
from services.gateway.events import Event, EventType
from services.gateway.recorder import Recorder
from tests.fakes.gateway import FakeLog, FakeObserver, StillClock


def event() -> Event:
    return Event(EventType.INTENT, 0.0)


def recorder(log: FakeLog, **changes: object) -> Recorder:
    options = {"instance": "gateway-t", "clock": StillClock(), "patience_s": 0.0, **changes}
    observer = options.pop("observer", None) or FakeObserver()
    return Recorder(log, observer, **options)  # type: ignore[arg-type]


async def test_events_of_concurrent_callers_share_a_batch_in_order() -> None:
    log = FakeLog()
    log.open.clear()
    numbering = recorder(log)
    futures = [numbering.submit(event()) for _ in range(1000)]
    await log.asked.wait()
    log.open.set()
    references = await asyncio.gather(*futures)
    assert [reference.index for reference in references] == list(range(1000))
    assert [entry.id.sequence for entry in log.events if entry.id] == list(range(1, 1001))
    assert max(len(batch) for batch in log.attempts) <= 256
    assert len(log.attempts) == 4


async def test_a_batch_is_repeated_with_the_same_ids_until_the_log_has_it() -> None:
    log = FakeLog()
    log.errors = [Unavailable("down"), ResourceExhausted("full"), Unavailable("down")]
    numbering = recorder(log, patience_s=60.0)
    reference = await numbering.submit(event())
    assert reference.index == 0
    assert [[entry.id for entry in batch] for batch in log.attempts] == [[log.events[0].id]] * 4


async def test_a_bad_event_fails_alone() -> None:
    log, observer = FakeLog(), FakeObserver()
    log.open.clear()
    numbering = recorder(log, observer=observer)
    futures = [numbering.submit(event()) for _ in range(3)]
    await log.asked.wait()
    log.errors = [AlreadyExists("batch"), AlreadyExists("first alone")]
    log.open.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(result).__name__ for result in results] == [
        "AlreadyExists",
        "RecordReference",
        "RecordReference",
    ]
    assert len(observer.rejections) == 1


async def test_too_many_waiting_events_are_refused_without_a_number() -> None:
    log = FakeLog()
    log.open.clear()
    numbering = recorder(log, max_waiting=2)
    numbering.submit(event())
    numbering.submit(event())
    with pytest.raises(Unavailable):
        numbering.submit(event())
    numbering.submit(event(), must=True)
    log.open.set()
    await numbering.close(1.0)
    assert [entry.id.sequence for entry in log.events if entry.id] == [1, 2, 3]


async def test_closing_says_how_many_events_were_left() -> None:
    log = FakeLog()
    log.open.clear()
    numbering = recorder(log)
    numbering.submit(event())
    assert await numbering.close(0.01) == 1


async def test_an_event_that_must_follow_waits_as_long_as_its_caller_likes() -> None:
    log = FakeLog()
    log.errors = [Unavailable("down")] * 3
    numbering = recorder(log)
    reference = await numbering.submit(event(), must=True)
    assert reference.index == 0
