"""The bucket against a model that is too simple to be wrong, and promise 6 for every window."""

import itertools
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ratelimit.account import Account
from services.ratelimit.ports import Operation, Status, Verb
from services.ratelimit.rule import MICRO, Rule, RuleSet, Unit

START_US = 1_790_000_000_000_000

rates = st.floats(0.01, 1000, allow_nan=False)
bursts = st.integers(1, 50)
pauses = st.one_of(st.just(0), st.integers(1, 2000), st.integers(1, 3_000_000))


def one_rule(unit: Unit, rate: float, burst: int) -> RuleSet:
    return RuleSet((Rule("only", unit, rate, burst),))


def assert_promise_6(charges: list[tuple[int, int]], rate: float, burst: int) -> None:
    """Check every window that starts and ends with a charge; others hold no more."""
    for first, last in itertools.combinations_with_replacement(range(len(charges)), 2):
        window = charges[first : last + 1]
        elapsed_us = window[-1][0] - window[0][0]
        allowed = burst + Fraction(rate) * elapsed_us / MICRO
        assert sum(amount for _, amount in window) <= allowed


@settings(max_examples=300, deadline=None)
@given(rates, bursts, st.lists(st.tuples(pauses, st.integers(1, 5)), max_size=40))
def test_for_every_interval_admitted_is_at_most_burst_plus_rate_times_time(
    rate: float, burst: int, calls: list[tuple[int, int]]
) -> None:
    rules, account, now_us = one_rule(Unit.REQUESTS, rate, burst), Account(), START_US
    level, last_us = Fraction(0), START_US
    admitted: list[tuple[int, int]] = []
    for number, (pause_us, amount) in enumerate(calls):
        now_us += pause_us
        id_ = number.to_bytes(16)
        operation = Operation(Verb.RESERVE, b"a", id_, rules, [amount * MICRO], 60 * MICRO)
        outcome = account.apply(operation, now_us)
        exact = max(Fraction(0), level - Fraction(rate) * (now_us - last_us) / MICRO)
        if outcome.status is Status.DONE:
            assert exact + amount <= burst
            level, last_us = exact + amount, now_us
            admitted.append((now_us, amount))
        else:
            # Rounding may keep back a millionth of a unit for each admission, never more.
            assert exact + amount > burst - Fraction(len(admitted) + 1, MICRO)
    assert_promise_6(admitted, rate, burst)


@settings(max_examples=300, deadline=None)
@given(
    rates,
    bursts,
    st.lists(
        st.tuples(pauses, st.integers(0, 20), st.integers(0, 20), st.integers(0, 7)), max_size=40
    ),
)
def test_usage_within_its_bound_never_exceeds_the_budget_in_any_interval(
    rate: float, burst: int, calls: list[tuple[int, int, int, int]]
) -> None:
    rules, account, now_us = one_rule(Unit.TOKENS, rate, burst), Account(), START_US
    live: list[tuple[bytes, int, int]] = []
    charges: list[tuple[int, int]] = []
    for number, (pause_us, bound, usage, choice) in enumerate(calls):
        now_us += pause_us
        if choice % 2 and live:
            id_, held, end_us = live.pop(choice // 2 % len(live))
            real = min(usage, held)
            operation = Operation(Verb.SETTLE, b"a", id_, rules, [real * MICRO])
            status = account.apply(operation, now_us).status
            assert (status is Status.DONE) == (now_us < end_us)
            charges.append((now_us, real) if now_us < end_us else (end_us, held))
        else:
            id_ = number.to_bytes(16)
            operation = Operation(Verb.RESERVE, b"a", id_, rules, [bound * MICRO], 2 * MICRO)
            outcome = account.apply(operation, now_us)
            if outcome.status is Status.DONE:
                live.append((id_, bound, now_us + 2 * MICRO))
    charges += [(end_us, held) for _, held, end_us in live if end_us <= now_us]
    assert_promise_6(sorted(charges), rate, burst)


def reserve(account: Account, rules: RuleSet, now_us: int, id_: int = 0) -> Status:
    operation = Operation(Verb.RESERVE, b"a", id_.to_bytes(16), rules, [MICRO], 60 * MICRO)
    return account.apply(operation, now_us).status


def test_a_clock_that_is_set_back_gives_nothing_away_and_does_not_stop_the_refill() -> None:
    rules, account = one_rule(Unit.REQUESTS, 1.0, 1), Account()
    assert reserve(account, rules, START_US, 1) is Status.DONE
    earlier_us = START_US - 3600 * MICRO
    assert reserve(account, rules, earlier_us, 2) is Status.REFUSED
    assert reserve(account, rules, earlier_us + MICRO - 1, 3) is Status.REFUSED
    assert reserve(account, rules, earlier_us + MICRO, 4) is Status.DONE


def test_refused_calls_do_not_postpone_the_refill() -> None:
    rules, account = one_rule(Unit.REQUESTS, 1.0, 1), Account()
    assert reserve(account, rules, START_US, 1) is Status.DONE
    for number in range(2, 900):
        assert reserve(account, rules, START_US + number * 1000, number) is Status.REFUSED
    assert reserve(account, rules, START_US + MICRO, 1000) is Status.DONE
