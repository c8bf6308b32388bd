"""Calls that several accounts must agree to: all or nothing, exactly, and seen as such."""

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ratelimit.decision import Decision
from services.ratelimit.descriptor import DescriptorRule, Entry
from services.ratelimit.limiter import Limiter
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.plan import Charge, Renewal, Reservation, Settlement
from services.ratelimit.policy import Group, Policy, account_of
from services.ratelimit.ports import Caller, Operation, Outcome, StoreUnavailable
from services.ratelimit.rule import MICRO, Match, Rule, RuleSet, Scope, Unit

ALL = Rule("all", Unit.REQUESTS, 0.001, 4, scope=Scope.GLOBAL)
HOUSE = Rule("house_tokens", Unit.TOKENS, 0, 100, "day", Scope.TENANT)
OWN = Rule("requests", Unit.REQUESTS, 0.001, 2)
POLICY = Policy.of([ALL, HOUSE, OWN])


class TurnableClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Counts:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.shadows: list[str] = []
        self.beyond: list[tuple[str, int]] = []

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        pass

    def shadow_refused(self, rule: str) -> None:
        self.shadows.append(rule)

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        self.beyond.append((unit, amount))

    def store_answered(self, seconds: float) -> None:
        pass


class Rig:
    """A limiter over one store, and how its rules stand."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.clock = TurnableClock()
        self.store = MemoryStore(self.clock)
        self.counts = Counts()
        self.limiter = Limiter(
            store=self.store,
            local=MemoryStore(self.clock),
            policy=policy,
            replicas=1,
            on_store_failure="deny",
            observer=self.counts,
            clock=self.clock,
        )

    async def reserve(
        self, caller: Caller, number: int, *, tokens: int = 0, model: str = "", requests: int = 1
    ) -> Decision:
        item = Reservation(caller, number.to_bytes(16), requests, tokens, model=model)
        (made,) = await self.limiter.reserve([item])
        await self.limiter.close()
        return made

    async def used(self, caller: Caller) -> dict[str, tuple[int, int]]:
        """Return what is used of each rule, and what of it is held."""
        standings, _, _ = await self.limiter.peek(caller)
        return {standing.rule.name: (standing.used, standing.held) for standing in standings}


def caller(subject: str = "k1", tenant: str = "acme", *roles: str) -> Caller:
    return Caller(tenant, "apikey", subject, "gateway", roles)


async def test_an_admitted_call_is_charged_everywhere_and_held_nowhere() -> None:
    rig = Rig()
    made = await rig.reserve(caller(), 1, tokens=30)
    assert made.admitted
    assert {one.rule.name for one in made.standings} == {
        "all",
        "house_tokens",
        "requests",
    }
    assert await rig.used(caller()) == {
        "all": (1, 0),
        "house_tokens": (30, 30),
        "requests": (1, 0),
    }


async def test_a_refusal_by_the_callers_own_rule_gives_every_ceiling_back() -> None:
    rig = Rig()
    for number in range(2):
        await rig.reserve(caller(), number)
    before = await rig.used(caller())
    for number in range(50):
        made = await rig.reserve(caller(), 10 + number, tokens=10)
        assert (made.admitted, made.refused_by) == (False, "requests")
    assert await rig.used(caller()) == before
    # What the refusal says is what is true once it is over.
    assert {one.rule.name: one.used for one in made.standings} == {
        name: used for name, (used, _) in before.items()
    }
    assert [one.rule.name for one in made.standings if one.refuses] == ["requests"]


async def test_a_refusal_by_a_ceiling_gives_the_callers_own_rules_back() -> None:
    rig = Rig()
    for number in range(4):
        await rig.reserve(caller(f"other{number}"), number)
    made = await rig.reserve(caller(), 10, tokens=10)
    assert (made.admitted, made.refused_by) == (False, "all")
    assert await rig.used(caller()) == {"all": (4, 0), "house_tokens": (0, 0), "requests": (0, 0)}


async def test_the_ceiling_that_refuses_longest_is_named() -> None:
    rig = Rig()
    made = await rig.reserve(caller(), 1, tokens=101)
    assert (made.refused_by, made.retry_after_us) == ("house_tokens", None)
    await rig.reserve(caller(), 2, tokens=100)
    made = await rig.reserve(caller(), 3, tokens=1)
    assert made.refused_by == "house_tokens"
    midnight_us = -int(rig.clock.now) % 86_400 * MICRO
    assert made.retry_after_us == midnight_us


async def test_ceilings_are_shared_and_tenants_are_not() -> None:
    rig = Rig()
    await rig.reserve(caller("k1"), 1, tokens=90)
    assert (await rig.reserve(caller("k2"), 2, tokens=20)).refused_by == "house_tokens"
    assert (await rig.reserve(caller("k2", "other"), 3, tokens=20)).admitted


async def test_settling_and_renewing_reach_every_account() -> None:
    rig = Rig()
    await rig.reserve(caller(), 1, tokens=30)
    rig.clock.now += 50
    (end_us,) = await rig.limiter.renew([Renewal(caller(), (1).to_bytes(16), 60 * MICRO)])
    assert end_us == int(rig.clock.now + 60) * MICRO
    rig.clock.now += 50
    (result,) = await rig.limiter.settle([Settlement(caller(), (1).to_bytes(16), 12)])
    assert result.settled
    assert (await rig.used(caller()))["house_tokens"] == (12, 0)
    (again,) = await rig.limiter.settle([Settlement(caller(), (1).to_bytes(16), 12)])
    assert not again.settled
    assert (await rig.used(caller()))["house_tokens"] == (12, 0)


async def test_with_anothers_id_nobody_settles_what_is_held_of_a_shared_ceiling() -> None:
    rig = Rig()
    await rig.reserve(caller("k1"), 1, tokens=30)
    (result,) = await rig.limiter.settle([Settlement(caller("k2"), (1).to_bytes(16), 0)])
    assert not result.settled
    other_peer = Caller("acme", "apikey", "k1", "model")
    (result,) = await rig.limiter.settle([Settlement(other_peer, (1).to_bytes(16), 0)])
    assert not result.settled
    assert (await rig.used(caller()))["house_tokens"] == (30, 30)


async def test_repeating_a_call_charges_no_account_twice_also_after_settling() -> None:
    rig = Rig()
    for _ in range(3):
        assert (await rig.reserve(caller(), 1, tokens=30)).admitted
    assert await rig.used(caller()) == {"all": (1, 0), "house_tokens": (30, 30), "requests": (1, 0)}
    await rig.limiter.settle([Settlement(caller(), (1).to_bytes(16), 5)])
    for _ in range(3):
        assert (await rig.reserve(caller(), 1, tokens=30)).admitted
    assert await rig.used(caller()) == {"all": (1, 0), "house_tokens": (5, 0), "requests": (1, 0)}


async def test_what_is_used_beyond_its_bound_is_charged_and_reported() -> None:
    rig = Rig()
    await rig.reserve(caller(), 1, tokens=30)
    (result,) = await rig.limiter.settle([Settlement(caller(), (1).to_bytes(16), 45)])
    assert result.beyond == {Unit.TOKENS: 15}
    assert rig.counts.beyond == [("tokens", 15)]
    assert (await rig.used(caller()))["house_tokens"] == (45, 0)


async def test_a_dead_gateways_reservation_frees_its_slot_and_stays_charged() -> None:
    at_once = Rule("at_once", Unit.CONCURRENCY, 0, 1)
    rig = Rig(Policy.of([HOUSE, at_once]))
    await rig.reserve(caller(), 1, tokens=30)
    refused = await rig.reserve(caller(), 2)
    assert (refused.refused_by, refused.retry_after_us) == ("at_once", MICRO)
    rig.clock.now += 61
    assert await rig.used(caller()) == {"at_once": (0, 0), "house_tokens": (30, 0)}
    assert (await rig.reserve(caller(), 3)).admitted


async def test_a_day_ends_at_midnight_and_holds_go_on_into_the_next() -> None:
    rig = Rig(Policy.of([HOUSE]))
    await rig.reserve(caller(), 1, tokens=60)
    await rig.limiter.settle([Settlement(caller(), (1).to_bytes(16), 60)])
    rig.clock.now += -rig.clock.now % 86_400 - 10
    await rig.reserve(caller(), 2, tokens=40)
    assert not (await rig.reserve(caller(), 3, tokens=1)).admitted
    rig.clock.now += 11
    assert (await rig.used(caller()))["house_tokens"] == (40, 40)
    assert (await rig.reserve(caller(), 4, tokens=60)).admitted
    assert not (await rig.reserve(caller(), 5, tokens=1)).admitted


async def test_a_shadow_rule_counts_and_never_refuses() -> None:
    quiet = Rule("quiet", Unit.TOKENS, 0, 50, "day", shadow=True)
    rig = Rig(Policy.of([quiet]))
    assert not (await rig.reserve(caller(), 1, tokens=40)).shadows
    made = await rig.reserve(caller(), 2, tokens=40)
    assert (made.admitted, made.shadows) == (True, ["quiet"])
    assert rig.counts.shadows == ["quiet"]
    # As if it had refused: what it would not have admitted does not fill it.
    await rig.limiter.settle([Settlement(caller(), (2).to_bytes(16), 40)])
    assert (await rig.used(caller()))["quiet"] == (40, 40)


async def test_a_role_or_a_model_has_a_ceiling_of_its_own() -> None:
    team = Rule("team", Unit.REQUESTS, 0.001, 2, scope=Scope.ROLE, match=Match(roles=("dev",)))
    big = Rule("big", Unit.REQUESTS, 0.001, 1, scope=Scope.MODEL, match=Match(models=("big",)))
    rig = Rig(Policy.of([team, big]))
    assert (await rig.reserve(caller("k1", "acme", "dev"), 1, model="big")).admitted
    assert (await rig.reserve(caller("k2"), 2, model="big")).refused_by == "big"
    assert (await rig.reserve(caller("k3", "acme", "dev"), 3, model="small")).admitted
    made = await rig.reserve(caller("k4", "acme", "dev"), 4, model="small")
    assert [(one.rule.name, one.key) for one in made.standings] == [("team", "dev")]
    assert (await rig.reserve(caller("k5"), 5, model="small")).admitted


async def test_a_charge_takes_at_once_and_zero_only_looks() -> None:
    rule = Rule("per_address", Unit.REQUESTS, 0.001, 2)
    policy = Policy.of([], [DescriptorRule("edge", (Entry("remote_address"),), rule)])
    rig = Rig(policy)
    group = Group(account_of("192.0.2.1"), RuleSet((rule,)))
    made = await rig.limiter.charge([Charge(group, hits) for hits in (0, 1, 0, 1, 0, 1)])
    assert [one.admitted for one in made] == [True] * 5 + [False]
    assert [one.standings[0].remaining for one in made] == [2, 1, 1, 0, 0, 0]


class LossyStore:
    """A store whose answers get lost, after or before it did what it was told."""

    def __init__(self, store: MemoryStore, losses: Sequence[str]) -> None:
        self._store = store
        self._losses = list(losses)

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        loss = self._losses.pop(0) if self._losses else ""
        if loss == "before":
            raise StoreUnavailable
        outcomes = await self._store.apply(operations)
        if loss == "after":
            raise StoreUnavailable
        return outcomes


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["", "", "before", "after"]), max_size=60),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40), st.integers(0, 40)), max_size=25),
)
def test_whatever_answers_are_lost_a_repeated_call_is_never_charged_twice(
    losses: list[str], calls: list[tuple[int, int, int]]
) -> None:
    async def play() -> None:
        house = Rule("house", Unit.TOKENS, 0, 200, "day", Scope.TENANT)
        rig = Rig(Policy.of([house, Rule("requests", Unit.REQUESTS, 0.001, 9)]))
        lossy = LossyStore(rig.store, losses)
        rig.limiter._store = lossy
        charged = 0
        admitted = [0, 0, 0]
        for number, (who, bound, real) in enumerate(calls):
            mine = caller(f"k{who}")
            for _ in range(100):
                try:
                    made = await rig.reserve(mine, number, tokens=bound)
                    break
                except Exception:  # noqa: BLE001, S112 - unavailable: repeat, as a gateway does
                    continue
            if not made.admitted:
                continue
            admitted[who] += 1
            item = Settlement(mine, number.to_bytes(16), min(real, bound))
            for _ in range(100):
                try:
                    await rig.limiter.settle([item])
                    break
                except Exception:  # noqa: BLE001, S112 - see above
                    continue
            charged += min(real, bound)
        lossy._losses.clear()
        rig.clock.now += 61  # what a lost release left behind is charged as of its end
        used = await rig.used(caller("k0"))
        assert charged <= used["house"][0] <= 200
        for who in range(3):
            assert (await rig.used(caller(f"k{who}")))["requests"][0] >= admitted[who]

    asyncio.run(play())


@pytest.mark.parametrize("source", ["store"])
async def test_batches_decide_each_call_by_itself(source: str) -> None:
    rig = Rig()
    items = [Reservation(caller(f"k{n % 3}"), n.to_bytes(16), 1, 20) for n in range(8)]
    made = await rig.limiter.reserve(items)
    await rig.limiter.close()
    assert [one.admitted for one in made] == [True] * 4 + [False] * 4
    assert {one.source for one in made} == {source}
    assert (await rig.used(caller("k0")))["all"] == (4, 0)
    assert (await rig.used(caller("k0")))["house_tokens"] == (80, 80)
