"""Events get numbers without a hole, and are never lost once they have one."""

import asyncio
from collections.abc import Sequence

import pytest

from services.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WeaverError,
)
from services.gateway.events import (
    Commitments,
    Event,
    EventType,
    OutcomeStatus,
    RecordId,
    RecordReference,
    Usage,
)
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from tests.fakes.gateway import FakeLog, FakeObserver, StillClock


def event() -> Event:
    return Event(EventType.INTENT, 0.0)


def whole_outcome() -> Event:
    return Event(
        EventType.OUTCOME,
        1.5,
        request_id="req-1",
        client_request_id="mine",
        principal=Principal("t", "", "s", ()),
        surface="generate",
        intent_id=RecordId("gateway-t", 1, 1),
        outcome=OutcomeStatus.COMPLETED,
        answered_model="m",
        usage=Usage(10**17, 1),
        cost_micros=10**17,
        commitments=Commitments(),
        duration_s=2.0,
    )


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


@pytest.mark.parametrize("error", [InvalidArgument, AlreadyExists, PermissionDenied])
async def test_a_bad_event_is_replaced_alone_under_its_number(error: type[WeaverError]) -> None:
    log, observer = FakeLog(), FakeObserver()
    log.refuses = lambda entry: error("bad") if entry.cost_micros else None
    log.open.clear()
    numbering = recorder(log, observer=observer)
    futures = [numbering.submit(entry) for entry in (event(), whole_outcome(), event())]
    await log.asked.wait()
    log.open.set()
    references = await asyncio.gather(*futures)
    assert [reference.index for reference in references] == [0, 1, 2]
    assert [entry.id.sequence for entry in log.events if entry.id] == [1, 2, 3]
    bad = whole_outcome()
    assert log.events[1] == Event(
        bad.type,
        bad.time,
        id=RecordId("gateway-t", 1_700_000_000_000, 2),
        request_id=bad.request_id,
        principal=bad.principal,
        intent_id=bad.intent_id,
        outcome=bad.outcome,
        surface=bad.surface,
        attributes={"replaced": error.default_reason},
    )
    assert ([str(one) for one in observer.replacements], observer.rejections) == (["bad"], [])


async def test_a_hole_is_counted_only_when_bare_facts_are_refused_too() -> None:
    log, observer = FakeLog(), FakeObserver()
    log.refuses = lambda entry: InvalidArgument("bad") if entry.request_id else None
    numbering = recorder(log, observer=observer)
    with pytest.raises(Unavailable) as caught:
        await numbering.submit(whole_outcome(), must=True)
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    assert (len(observer.rejections), observer.replacements) == (1, [])
    assert (await numbering.submit(event())).index == 0


async def test_a_refusal_that_follows_a_stall_ends_the_stall() -> None:
    log, observer = FakeLog(), FakeObserver()
    log.errors = [Unavailable("down"), InvalidArgument("bad"), InvalidArgument("bare")]
    numbering = recorder(log, observer=observer)
    with pytest.raises(Unavailable):
        await numbering.submit(event())
    await numbering.close(1.0)
    assert numbering.stall is None
    assert observer.stalls[-1] is None


@pytest.mark.parametrize(
    "error",
    [
        Internal("x"),
        Unauthenticated("x"),
        Unimplemented("x"),
        NotFound("x"),
        DeadlineExceeded("x"),
        KeyError("x"),
    ],
)
async def test_every_error_that_is_not_about_the_event_is_repeated(error: Exception) -> None:
    log, observer = FakeLog(), FakeObserver()
    log.errors = [error, error]
    numbering = recorder(log, observer=observer, patience_s=60.0)
    assert (await numbering.submit(event())).index == 0
    assert len(log.attempts) == 3
    assert [isinstance(stall, WeaverError) for stall in observer.stalls] == [True, False]
    assert (observer.rejections, observer.replacements) == ([], [])


async def test_a_wrong_number_of_places_is_a_stall() -> None:
    log = FakeLog()
    answers = [[], [RecordReference("log", 0), RecordReference("log", 1)]]

    class Miscounting(FakeLog):
        async def append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
            return answers.pop() if answers else await log.append(events)

    numbering = recorder(Miscounting(), patience_s=60.0)
    assert await numbering.submit(event()) == RecordReference("log", 0)
    assert len(log.events) == 1


async def test_an_observer_that_fails_stops_nothing() -> None:
    class Failing(FakeObserver):
        def recorded(self, events: int) -> None:
            raise KeyError(events)

        stalled = replaced = rejected = recorded  # type: ignore[assignment]

    log = FakeLog()
    log.errors = [Unavailable("down"), *[InvalidArgument("bad")] * 3]
    numbering = recorder(log, observer=Failing(), patience_s=60.0)
    with pytest.raises(Unavailable):
        await numbering.submit(event())
    await numbering.submit(event())
    reference = await numbering.submit(event())
    assert reference.index == 1


async def test_closing_leaves_no_caller_waiting() -> None:
    log = FakeLog()
    log.open.clear()
    numbering = recorder(log)
    future = numbering.submit(event(), must=True)
    await numbering.close(0.01)
    with pytest.raises(Unavailable):
        await future


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


async def test_a_new_event_waits_for_a_log_that_restarts_as_those_before_it_do() -> None:
    log = FakeLog()
    log.errors = [Unavailable("restarting"), Unavailable("restarting")]
    numbering = recorder(log, patience_s=60.0)
    first = numbering.submit(event())
    while numbering.stall is None:
        await asyncio.sleep(0)
    second = numbering.submit(event())
    assert [(await first).index, (await second).index] == [0, 1]


async def test_a_new_event_is_refused_when_the_log_was_away_for_longer() -> None:
    log = FakeLog()
    log.errors = [Unavailable("down")] * 3
    numbering = recorder(log, patience_s=0.0)
    first = numbering.submit(event(), must=True)
    while numbering.stall is None:
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        numbering.submit(event())
    assert (await first).index == 0
