"""Each refusal is counted in exactly one record, and a flood makes few records."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.refusals import MAX_GROUPS, Refusal, Refusals
from tests.fakes.gateway import StillClock


def refusal(network: str, reason: str = "RATE_LIMITED") -> Refusal:
    return Refusal(None, network, reason, "chat.completions", 429)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans()), max_size=200))
def test_everything_is_accounted_for(steps: list[tuple[int, str, bool]]) -> None:
    """Promise 3: each refused request is counted in exactly one refusal record."""
    clock = StillClock()
    refusals = Refusals(clock)
    counted = 0
    for wait, network, take in steps:
        clock.now += wait / 3
        refusals.count(refusal(network))
        if take:
            counted += sum(event.count for event in refusals.take())
    counted += sum(event.count for event in refusals.take(everything=True))
    assert counted == len(steps)


def test_refusals_of_one_second_are_one_record() -> None:
    refusals = Refusals(StillClock())
    for _ in range(50):
        refusals.count(refusal("a"))
    assert list(refusals.take()) == []
    (event,) = refusals.take(everything=True)
    assert (event.count, event.source_network, event.reason) == (50, "a", "RATE_LIMITED")


def test_a_flood_from_everywhere_makes_a_bounded_number_of_records() -> None:
    clock = StillClock()
    refusals = Refusals(clock)
    for second in range(20):
        clock.now = 1_700_000_000.0 + second
        for number in range(2 * MAX_GROUPS):
            refusals.count(refusal(str(number)))
    events = list(refusals.take(everything=True))
    assert len(events) <= 3 * MAX_GROUPS + 1
    assert sum(event.count for event in events) == 20 * 2 * MAX_GROUPS
    assert any(event.source_network == "other" for event in events)


def test_what_the_log_had_no_room_for_counts_again() -> None:
    refusals = Refusals(StillClock())
    refusals.count(refusal("a"))
    (event,) = refusals.take(everything=True)
    refusals.put_back(event)
    (again,) = refusals.take(everything=True)
    assert (again.count, again.time) == (event.count, event.time)
