"""The limiter: verdicts in words, and what is declared for when the store is down."""

from collections.abc import Sequence

import pytest

from services.common.errors import NotFound, Unavailable
from services.ratelimit.limiter import Limiter, OnStoreFailure
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.owed import Owed
from services.ratelimit.plan import Renewal, Reservation, Settlement
from services.ratelimit.policy import Policy
from services.ratelimit.ports import Caller, Operation, Outcome, StoreUnavailable
from services.ratelimit.rule import Rule, Unit

CALLER = Caller("acme", "apikey", "k1", "gateway")
POLICY = Policy.from_limits(rps=1, burst=4, tokens_per_minute=600)
SLOTS = Policy.of([Rule("concurrency", Unit.CONCURRENCY, 0, 1)])


class TurnableClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 50.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Counts:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.decisions: list[tuple[bool, str, str]] = []
        self.answers = 0
        self.shadows: list[str] = []
        self.beyond: list[tuple[str, int]] = []

    def shadow_refused(self, rule: str) -> None:
        self.shadows.append(rule)

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        self.beyond.append((unit, amount))

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        self.decisions.append((admitted, rule, source))

    def store_answered(self, seconds: float) -> None:
        self.answers += 1


class BreakableStore:
    """A store that can be switched off."""

    def __init__(self, clock: TurnableClock) -> None:
        self._store = MemoryStore(clock)
        self.up = True
        self.late = False
        self.told: list[bytes] = []

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        if not self.up:
            raise StoreUnavailable
        self.told += [one.identity[-16:] for one in operations]
        outcomes = await self._store.apply(operations)
        if self.late:
            raise StoreUnavailable
        return outcomes


class Rig:
    """A limiter with everything around it."""

    def __init__(self, on_store_failure: OnStoreFailure = "local", replicas: int = 2) -> None:
        self.clock = TurnableClock()
        self.store = BreakableStore(self.clock)
        self.counts = Counts()
        self.limiter = Limiter(
            store=self.store,
            local=MemoryStore(self.clock),
            policy=POLICY,
            replicas=replicas,
            on_store_failure=on_store_failure,
            observer=self.counts,
            clock=self.clock,
        )


def reservation(number: int = 0, *, tokens: int = 0, requests: int = 1) -> Reservation:
    return Reservation(CALLER, number.to_bytes(16), requests, tokens)


async def test_a_refusal_names_the_rule_and_when_to_return() -> None:
    rig = Rig()
    first, second = await rig.limiter.reserve([reservation(1, requests=4), reservation(2)])
    assert first.admitted
    assert (second.admitted, second.refused_by) == (False, "requests")
    assert second.retry_after_us == 1_000_000
    assert second.policy_version == POLICY.version
    assert rig.counts.decisions == [(True, "", "store"), (False, "requests", "store")]
    assert rig.counts.answers == 1


async def test_the_tightest_rule_comes_first_with_what_remains() -> None:
    rig = Rig()
    (decision,) = await rig.limiter.reserve([reservation(tokens=450)])
    tokens, requests = decision.standings
    assert (tokens.rule.name, tokens.remaining) == ("tokens_per_minute", 150)
    assert (requests.rule.name, requests.remaining) == ("requests", 3)
    assert requests.reset_after_us == 1_000_000


async def test_a_call_that_can_never_be_admitted_has_no_time_to_retry() -> None:
    rig = Rig()
    (decision,) = await rig.limiter.reserve([reservation(tokens=601)])
    assert (decision.refused_by, decision.retry_after_us) == ("tokens_per_minute", None)


async def test_another_policy_decides_from_the_next_call_on() -> None:
    rig = Rig()
    await rig.limiter.reserve([reservation(1, requests=4)])
    rig.limiter.adopt(Policy.from_limits(rps=1, burst=5))
    (decision,) = await rig.limiter.reserve([reservation(2)])
    assert decision.admitted
    assert decision.policy_version != POLICY.version


async def test_local_enforces_this_replicas_share_while_the_store_is_down() -> None:
    rig = Rig("local", replicas=2)
    rig.store.up = False
    decisions = await rig.limiter.reserve([reservation(number) for number in range(3)])
    assert [decision.admitted for decision in decisions] == [True, True, False]
    assert {decision.source for decision in decisions} == {"local"}
    assert rig.counts.answers == 0


async def test_deny_refuses_with_a_clear_error_while_the_store_is_down() -> None:
    rig = Rig("deny")
    rig.store.up = False
    with pytest.raises(Unavailable) as caught:
        await rig.limiter.reserve([reservation()])
    assert caught.value.reason == "RATELIMIT_UNAVAILABLE"
    assert caught.value.retry_after_s == 1.0


async def test_allow_admits_everything_while_the_store_is_down() -> None:
    rig = Rig("allow")
    rig.store.up = False
    decisions = await rig.limiter.reserve([reservation(number) for number in range(9)])
    assert all(decision.admitted and decision.source == "none" for decision in decisions)
    (result,) = await rig.limiter.settle([Settlement(CALLER, bytes(16), 5)])
    assert not result.settled
    assert await rig.limiter.renew_one(Renewal(CALLER, bytes(16), 1_000_000)) == 51_000_000
    assert await rig.limiter.peek(CALLER) == ([], POLICY.version, "none")


async def test_a_local_reservation_is_settled_after_the_store_is_back() -> None:
    rig = Rig("local")
    rig.store.up = False
    await rig.limiter.reserve([reservation(7, tokens=100)])
    rig.store.up = True
    assert await rig.limiter.renew_one(Renewal(CALLER, (7).to_bytes(16), 1_000_000)) == 51_000_000
    (result,) = await rig.limiter.settle([Settlement(CALLER, (7).to_bytes(16), 10)])
    assert result.settled
    rig.store.up = False
    standings, _, source = await rig.limiter.peek(CALLER)
    tokens = next(item for item in standings if item.rule.name == "tokens_per_minute")
    assert (tokens.remaining, source) == (290, "local")


async def test_a_stores_reservation_cannot_be_settled_while_it_is_down_and_stays_charged() -> None:
    rig = Rig("local")
    await rig.limiter.reserve([reservation(7, tokens=100)])
    rig.store.up = False
    (result,) = await rig.limiter.settle([Settlement(CALLER, (7).to_bytes(16), 10)])
    assert not result.settled
    rig.store.up = True
    standings, _, _ = await rig.limiter.peek(CALLER)
    assert standings[0].remaining == 3


async def test_renewing_what_nobody_knows_is_not_found() -> None:
    rig = Rig("local")
    with pytest.raises(NotFound) as caught:
        await rig.limiter.renew_one(Renewal(CALLER, bytes(16), 1000))
    assert caught.value.reason == "RESERVATION_NOT_FOUND"
    rig.store.up = False
    with pytest.raises(NotFound):
        await rig.limiter.renew_one(Renewal(CALLER, bytes(16), 1000))


async def test_peeking_charges_nothing() -> None:
    rig = Rig()
    for _ in range(10):
        standings, version, source = await rig.limiter.peek(CALLER)
    assert [standing.remaining for standing in standings] == [4, 600]
    assert (version, source) == (POLICY.version, "store")


async def test_settling_and_reserving_take_one_round_trip() -> None:
    rig = Rig()
    await rig.limiter.reserve([reservation(1, tokens=600)])
    settled, decisions = await rig.limiter.settle_and_reserve(
        [Settlement(CALLER, (1).to_bytes(16), tokens=100)], [reservation(2, tokens=500)]
    )
    assert [one.settled for one in settled] == [True]
    assert [one.admitted for one in decisions] == [True]
    assert rig.counts.answers == 2


async def test_what_is_settled_on_the_way_stays_in_this_replica_while_the_store_is_down() -> None:
    rig = Rig("local", replicas=1)
    rig.store.up = False
    await rig.limiter.reserve([reservation(1, tokens=600)])
    settled, decisions = await rig.limiter.settle_and_reserve(
        [Settlement(CALLER, (1).to_bytes(16), tokens=100)], [reservation(2, tokens=500)]
    )
    assert ([one.settled for one in settled], decisions[0].admitted) == ([True], True)
    allowing = Rig("allow")
    allowing.store.up = False
    settled, decisions = await allowing.limiter.settle_and_reserve(
        [Settlement(CALLER, (1).to_bytes(16), tokens=100)], [reservation(2)]
    )
    assert ([one.settled for one in settled], decisions[0].admitted) == ([False], True)


@pytest.mark.parametrize("on_store_failure", ["local", "allow"])
async def test_a_call_that_ended_while_the_store_was_down_gives_its_slot_back_after(
    on_store_failure: OnStoreFailure,
) -> None:
    rig = Rig(on_store_failure)
    rig.limiter.adopt(SLOTS)
    assert (await rig.limiter.reserve([reservation(1)]))[0].admitted
    rig.store.up = False
    (settled,) = await rig.limiter.settle([Settlement(CALLER, reservation(1).id)])
    assert not settled.settled
    rig.store.up = True
    assert not (await rig.limiter.reserve([reservation(2)]))[0].admitted
    await rig.limiter.close()
    assert (await rig.limiter.reserve([reservation(3)]))[0].admitted


async def test_what_a_hanging_store_reserved_late_is_given_back_too() -> None:
    rig = Rig()
    rig.limiter.adopt(SLOTS)
    rig.store.late = True
    (decision,) = await rig.limiter.reserve([reservation(1)])
    assert (decision.admitted, decision.source) == (True, "local")
    rig.store.late, rig.store.up = False, False
    (settled,) = await rig.limiter.settle([Settlement(CALLER, reservation(1).id)])
    assert settled.settled
    rig.store.up = True
    rig.limiter.pay()
    await rig.limiter.close()
    assert (await rig.limiter.reserve([reservation(2)]))[0].source == "store"
    assert rig.counts.decisions[-1] == (True, "", "store")


async def test_usage_of_an_outage_is_charged_after_it_also_beyond_the_bound() -> None:
    rig = Rig()
    await rig.limiter.reserve([reservation(1, tokens=100), reservation(2, tokens=100)])
    rig.store.up = False
    await rig.limiter.settle(
        [Settlement(CALLER, reservation(n).id, tokens) for n, tokens in ((1, 130), (2, 10))]
    )
    rig.limiter.pay()
    await rig.limiter.close()
    rig.store.up = True
    rig.limiter.pay()
    rig.limiter.pay()
    await rig.limiter.close()
    standings, _, _ = await rig.limiter.peek(CALLER)
    assert {one.rule.name: one.used for one in standings}["tokens_per_minute"] == 140
    assert rig.counts.beyond == [("tokens", 30)]


async def test_what_is_owed_to_the_store_is_bounded_and_the_oldest_stay() -> None:
    rig = Rig()
    owed = Owed(rig.store, rig.counts, most=250)
    for number in range(300):
        owed.add(Settlement(CALLER, number.to_bytes(16)))
        owed.add(Settlement(CALLER, (0).to_bytes(16)))
    assert len(owed) == 250
    await owed.pay(POLICY)
    assert len(owed) == 0
    assert rig.store.told == [number.to_bytes(16) for number in range(250)]
