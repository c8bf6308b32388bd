"""The room that the gateway has, and who gets it."""

import asyncio
import contextlib
import sys
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from services.common.clock import SystemClock
from services.common.errors import ResourceExhausted, Unauthenticated, Unavailable, WeaverError
from services.gateway.admission import FEWEST_IN_FRONT, SHOWN_S, Capacity, Door, Place
from services.gateway.admission_metrics import AdmissionMetrics, SheddingLog
from services.gateway.calls import WholeResponse
from services.gateway.events import EventType
from services.gateway.principal import Principal
from tests.fakes.gateway import STREAM_BODY, StillClock, Suite

A, B, C = (Principal("t", "apikey", name, ("user",)) for name in "abc")
STRANGER = Principal("other", "apikey", "a")


def door(clock: StillClock | None = None, **capacity: float) -> Door:
    return Door(Capacity(**capacity), clock or StillClock())  # type: ignore[arg-type]


def fill(door: Door, principal: Principal, body_bytes: int = 0) -> list[Place]:
    """Take places until there is none for this caller."""
    places = []
    with contextlib.suppress(WeaverError):
        while True:
            places.append(door.enter(principal, body_bytes))
    return places


def test_no_more_calls_than_the_limit_are_in_flight() -> None:
    full = door(calls=20)
    for number in range(40):
        fill(full, Principal("t", "apikey", str(number)))
    assert full.calls == 20
    with pytest.raises(Unavailable) as refused:
        full.enter(C, 0)
    assert (refused.value.reason, refused.value.retry_after_s) == ("OVERLOADED", 1.0)
    assert full.refused["total"] > 0


def test_one_caller_leaves_room_for_others() -> None:
    shared = door(calls=90)
    assert 75 <= len(fill(shared, A)) <= 80
    assert len(fill(shared, B)) >= 5
    shared.enter(C, 0)
    assert shared.refused["share"] == 2
    with pytest.raises(Unavailable):
        shared.enter(Principal("t", "apikey", "d"), 0)
    shared.enter(STRANGER, 0)


def test_a_greedy_caller_ends_up_with_no_more_than_its_neighbours() -> None:
    shared = door(calls=900)
    greedy, modest = fill(shared, A), fill(shared, B)
    for _ in range(900):  # each place that comes free is asked for by both, the greedy one first
        if greedy:
            greedy.pop().leave()
        for caller, places in ((A, greedy), (B, modest)):
            with contextlib.suppress(Unavailable):
                places.append(shared.enter(caller, 0))
    assert abs(len(greedy) - len(modest)) < 30


def test_the_last_place_is_for_somebody_new_however_few_there_are() -> None:
    small = door(calls=4)
    assert len(fill(small, A)) == 3
    assert len(fill(small, B)) == 1
    assert len(fill(door(calls=1), A)) == 1


def test_callers_of_one_tenant_leave_room_for_another() -> None:
    shared = door(calls=1000)
    for number in range(500):
        fill(shared, Principal("t", "https://issuer", str(number)))
    assert shared.calls < 1000
    shared.enter(STRANGER, 0)


def test_the_same_subject_of_another_tenant_is_another_caller() -> None:
    own = door(calls=100, calls_per_caller=1)
    own.enter(A, 0)
    own.enter(STRANGER, 0)
    with pytest.raises(ResourceExhausted, match="1 requests under way"):
        own.enter(A, 0)
    assert own.refused["caller"] == 1
    assert not own.shedding


def test_other_roles_do_not_make_another_caller() -> None:
    own = door(calls=100, calls_per_caller=1)
    own.enter(A, 0)
    with pytest.raises(ResourceExhausted):
        own.enter(Principal("t", "apikey", "a", ("admin",)), 0)


def test_large_bodies_take_room_and_one_is_always_let_in() -> None:
    wide = door(calls=100, body_bytes=1000)
    huge = wide.enter(A, 5000)
    with pytest.raises(Unavailable):
        wide.enter(B, 1)
    huge.leave()
    assert len(fill(wide, A, 100)) <= 9
    wide.enter(B, 50)
    assert wide.refused["bytes"] == 2
    assert wide.body_bytes <= 1000


def test_a_place_is_given_back_once() -> None:
    own = door()
    place = own.enter(A, 10)
    place.pass_on(0.0)
    place.pass_on(0.0)
    other = own.enter(A, 10)
    for _ in range(2):
        place.leave()
        other.leave()
    assert (own.calls, own.front, own.body_bytes, own.callers) == (0, 0, 0, 0)


def crowd(own: Door, clock: StillClock, wait_s: float, calls: int = 500) -> None:
    """Let as many calls in as fit, and on after a wait, for one interval."""
    arrived = clock.now
    places = []
    for number in range(calls):
        with contextlib.suppress(Unavailable):
            places.append(own.enter(Principal(str(number), "apikey", "x"), 0))
    clock.now += wait_s
    for place in places:
        place.pass_on(arrived)
        place.leave()


def test_a_queue_that_stands_lets_fewer_in_and_one_that_drains_lets_more_in() -> None:
    clock = StillClock()
    own = door(clock, delay_s=0.5)
    for _ in range(6):
        crowd(own, clock, 0.6)
    assert own.front_limit < 300
    for _ in range(40):
        crowd(own, clock, 0.6)
    assert own.front_limit == FEWEST_IN_FRONT
    assert own.refused["delay"] > 0
    for _ in range(60):
        crowd(own, clock, 0.2)
        clock.now += 0.4
    assert own.front_limit == 2048


def test_one_call_that_did_not_wait_shows_that_the_queue_drains() -> None:
    clock = StillClock()
    own = door(clock, delay_s=0.5)
    for _ in range(20):
        crowd(own, clock, 0.6)
        own.enter(A, 0).pass_on(clock.now)
    assert own.front_limit == 2048


def test_what_was_learned_is_forgotten_after_a_pause() -> None:
    clock = StillClock()
    own = door(clock, delay_s=0.5)
    for _ in range(10):
        crowd(own, clock, 0.6)
    assert own.front_limit < 2048
    clock.now += 60
    own.enter(A, 0).pass_on(clock.now)
    assert own.front_limit == 2048


def test_a_delay_of_0_never_lets_fewer_in() -> None:
    clock = StillClock()
    own = door(clock, delay_s=0)
    for _ in range(10):
        crowd(own, clock, 0.9)
    assert own.front_limit == 2048


def test_that_load_is_shed_is_said_once_and_shown_for_a_while() -> None:
    said: list[str] = []

    class Said:
        def shedding(self, cause: str) -> None:
            said.append(cause)

    clock = StillClock()
    own = Door(Capacity(calls=1), clock, lambda: 0.5, Said())
    own.enter(A, 0)
    assert not own.shedding
    for _ in range(3):
        with pytest.raises(Unavailable) as refused:
            own.enter(B, 0)
    assert refused.value.retry_after_s == 1.5
    assert own.shedding
    clock.now += SHOWN_S
    assert not own.shedding
    assert said == ["total"]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 400), st.booleans()), max_size=80))
def test_the_books_always_balance(steps: list[tuple[int, int, bool]]) -> None:
    own = door(calls=12, calls_per_caller=5, body_bytes=1000)
    held: list[tuple[Place, int]] = []
    for number, body_bytes, enters in steps:
        if enters:
            with contextlib.suppress(WeaverError):
                principal = Principal("t" if number % 2 else "u", "apikey", str(number))
                held.append((own.enter(principal, body_bytes), body_bytes))
        elif held:
            place, _ = held.pop(number % len(held))
            if number % 2:
                place.pass_on(0.0)
            place.leave()
        assert own.calls == own.front == len(held) <= 12
        assert own.body_bytes == sum(size for _, size in held)
    for place, _ in held:
        place.leave()
    assert (own.calls, own.front, own.body_bytes, own.callers) == (0, 0, 0, 0)


def test_a_call_is_let_in_and_out_in_under_5_microseconds() -> None:
    own = Door(Capacity(), SystemClock())
    _others = [own.enter(Principal("t", "apikey", str(number)), 0) for number in range(500)]

    def one() -> None:
        place = own.enter(A, 100)
        place.pass_on(1e12)
        place.leave()

    traced = sys.gettrace() is not None  # coverage takes many times as long
    assert min(timeit.repeat(one, number=2000, repeat=10)) / 2000 < (5e-4 if traced else 5e-6)


def test_the_log_says_that_load_is_shed(capsys: pytest.CaptureFixture[str]) -> None:
    full = Door(Capacity(calls=1), StillClock(), witness=SheddingLog())
    for principal in (A, B, C):
        with contextlib.suppress(Unavailable):
            full.enter(principal, 0)
    assert capsys.readouterr().out.count("load is shed") == 1


async def test_a_shed_call_reserves_nothing_and_is_counted_once() -> None:
    """Promise 3: each refused request is counted in exactly one refusal record."""
    suite = Suite(capacity=Capacity(calls=1))
    suite.model.open.clear()
    first = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call())
    assert len(suite.limiter.reserved) == 1
    (refusal,) = suite.refused()
    assert (refusal.type, refusal.reason, refusal.count) == (EventType.REFUSAL, "OVERLOADED", 1)
    assert refusal.principal is not None
    suite.model.open.set()
    await first
    await suite.pipeline.run(suite.call())
    assert suite.door.calls == 0


async def test_a_stream_keeps_its_place_to_its_end() -> None:
    suite = Suite(capacity=Capacity(calls=2))
    response = await suite.pipeline.run(suite.call(STREAM_BODY))
    assert not isinstance(response, WholeResponse)
    assert (suite.door.calls, suite.door.front) == (1, 0)
    async for _ in response:
        pass
    await response.last()
    await response.aclose()
    assert suite.door.calls == 0


async def test_a_call_that_fails_gives_its_place_back() -> None:
    suite = Suite()
    suite.model.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call())
    suite.limiter.error = Unavailable("away")
    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call())
    with pytest.raises(Unauthenticated):
        await suite.pipeline.run(suite.call(key="wrong"))
    with pytest.raises(WeaverError):
        await suite.pipeline.run(suite.call(b"no json"))
    assert (suite.door.calls, suite.door.front) == (0, 0)


async def test_a_caller_who_leaves_gives_the_place_back() -> None:
    suite = Suite()
    suite.model.open.clear()
    call = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert suite.door.calls == 0


def test_metrics_tell_the_load_and_what_was_shed() -> None:
    own, registry = door(calls=1), CollectorRegistry()
    AdmissionMetrics(own, Capacity(calls=1), registry)
    own.enter(A, 7)
    fill(own, B)
    text = generate_latest(registry).decode()
    assert "weaver_requests_in_flight 1.0" in text
    assert "weaver_requests_in_flight_bytes 7.0" in text
    assert 'weaver_requests_shed_total{cause="total"} 1.0' in text
