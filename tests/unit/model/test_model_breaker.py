"""A target that keeps failing rests, and is probed before it serves again."""

import pytest

from services.model.breaker import Breaker, BreakerPolicy, State

POLICY = BreakerPolicy(failures=3, volume=4, window_s=10, open_s=2, longest_open_s=8)


def breaker(policy: BreakerPolicy = POLICY) -> tuple[Breaker, list[str]]:
    found, changes = Breaker(policy), list[str]()
    found.on_change = lambda state, reason: changes.append(f"{state.value} {reason}".strip())
    return found, changes


def failing(found: Breaker, *times: float) -> None:
    for now in times:
        assert found.admit(now)
        found.failed(now)


def test_failures_in_a_row_open_it_and_one_probe_at_a_time_may_close_it() -> None:
    found, changes = breaker()

    failing(found, 1, 1, 1)

    assert not found.admit(1.1)
    assert not found.ready(1.1)
    assert found.state(1.1) is State.OPEN
    assert found.wait_s(1) == 2
    assert found.state(3.1) is State.HALF_OPEN
    assert found.admit(3.1)
    assert not found.admit(3.1)
    assert not found.ready(3.1)
    found.succeeded(3.2)
    assert found.admit(3.2)
    assert found.wait_s(3.2) == 0
    assert changes == ["open 3 failures in a row", "half_open", "closed"]


def test_each_failed_probe_doubles_the_rest_up_to_the_longest() -> None:
    found, _ = breaker()
    failing(found, 1, 1, 1)
    now, waits = 1.0, []
    for _ in range(4):
        now += found.wait_s(now)
        failing(found, now)
        waits.append(found.wait_s(now))

    assert waits == [4, 8, 8, 8]


def test_how_often_it_opened_is_forgotten_in_time() -> None:
    found, _ = breaker()
    failing(found, 1, 1, 1)
    assert found.admit(3)
    found.succeeded(3)
    failing(found, 4, 4, 4)
    assert found.wait_s(4) == 4
    assert found.admit(9)
    found.succeeded(9)
    failing(found, 100, 100, 100)
    assert found.wait_s(100) == 2


def test_a_probe_that_says_nothing_leaves_room_for_another() -> None:
    found, _ = breaker()
    failing(found, 1, 1, 1)

    assert found.admit(4)
    found.withdrawn()

    assert found.admit(4)


def test_a_bad_share_opens_it_once_there_were_tries_enough() -> None:
    found, changes = breaker()

    for now in (1, 1.1):
        found.succeeded(now)
        found.failed(now)
    assert changes == ["open 50% of 4 tries failed"]


def test_what_is_older_than_the_window_does_not_count() -> None:
    found, changes = breaker()

    found.failed(1)
    found.failed(1)
    found.succeeded(6)
    assert found.share(6)[0] == pytest.approx(2 / 3)
    found.failed(30)

    assert found.share(30) == (1, 1)
    assert changes == []


def test_an_outlier_beside_healthy_targets_is_opened_earlier() -> None:
    policy = BreakerPolicy(failures=50, volume=4, share=0.9, outlier=0.25, window_s=100)
    alone, nothing = breaker(policy)
    found, changes = breaker(policy)
    beside, _ = breaker(policy)
    idle, _ = breaker(policy)
    for _ in range(4):
        beside.succeeded(1)
    for one in (alone, found):
        for _ in range(3):
            one.succeeded(1)
        one.failed(1, [one])

    found.failed(1, [found, beside, idle])

    assert nothing == []
    assert changes == ["open 40% of 5 tries failed, 0% beside it"]


def test_a_deployment_may_switch_it_off() -> None:
    found, changes = breaker(BreakerPolicy(failures=0))

    failing(found, *(1.0 for _ in range(99)))

    assert changes == []


def test_a_failure_that_comes_late_does_not_change_an_open_one() -> None:
    found, changes = breaker()
    failing(found, 1, 1, 1)

    found.failed(2)

    assert changes == ["open 3 failures in a row"]
    assert found.wait_s(2) == 2


def test_patience_that_a_target_asks_for_makes_others_better() -> None:
    found, _ = breaker()

    found.cool(1, 600)

    assert found.admit(2)
    assert not found.ready(8)
    assert found.ready(9)
