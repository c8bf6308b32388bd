"""The environment's rules, the count of limiters, and charges while the store is down."""

import pytest

from services.common.errors import Unavailable
from services.common.settings import load
from services.ratelimit import defaults
from services.ratelimit.descriptor import DescriptorRule, Entry
from services.ratelimit.limiter import Limiter, OnStoreFailure
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.plan import Charge
from services.ratelimit.policy import Group, Policy, account_of
from services.ratelimit.ports import Operation, Outcome, StoreUnavailable
from services.ratelimit.replicas import Recent
from services.ratelimit.rule import Rule, RuleSet, Unit
from services.ratelimit.settings import RatelimitSettings


class TurnableClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class Silent:
    """An observer that takes no note."""

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        pass

    def shadow_refused(self, rule: str) -> None:
        pass

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        pass

    def store_answered(self, seconds: float) -> None:
        pass


class GoneStore:
    """A store that is never there."""

    async def apply(self, operations: list[Operation]) -> list[Outcome]:
        raise StoreUnavailable


def test_the_environment_sets_every_kind_of_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RPS": "7",
        "BURST": "9",
        "TOKENS_PER_MINUTE": "600",
        "TOKENS_PER_DAY": "5000",
        "COST_MICROS_PER_DAY": "100",
        "COST_MICROS_PER_MONTH": "900",
        "CONCURRENCY": "4",
        "ADDRESS_RPS": "10",
    }.items():
        monkeypatch.setenv(f"WEAVER_RATELIMIT_{name}", value)
    settings = load(RatelimitSettings)
    assert defaults.rules(settings) == [
        Rule("requests", Unit.REQUESTS, 7, 9),
        Rule("tokens_per_minute", Unit.TOKENS, 10, 600),
        Rule("tokens_per_day", Unit.TOKENS, 0, 5000, "day"),
        Rule("cost_per_day", Unit.COST, 0, 100, "day"),
        Rule("cost_per_month", Unit.COST, 0, 900, "month"),
        Rule("concurrency", Unit.CONCURRENCY, 0, 4),
    ]
    (rule,) = defaults.descriptors(settings)
    per_address = Rule("per_address", Unit.REQUESTS, 10, 20)
    entries = (Entry("masked_remote_address"),)
    assert rule == DescriptorRule("weaver_edge", entries, per_address, "second", headers=False)


def test_without_settings_there_is_the_rate_alone() -> None:
    settings = load(RatelimitSettings)
    assert [rule.name for rule in defaults.rules(settings)] == ["requests"]
    assert defaults.descriptors(settings) == []


def test_the_largest_count_of_the_last_seconds_holds() -> None:
    clock, told = TurnableClock(), list[int]()
    recent = Recent(told.append, clock)
    for seconds, count in [(0, 3), (1, 1), (2, 2), (5, 2), (3, 1), (9, 1), (1, 4), (1, 3)]:
        clock.now += seconds
        recent.counted(count)
    assert told == [3, 3, 3, 3, 2, 1, 4, 4]


def limiter(on_store_failure: OnStoreFailure) -> Limiter:
    clock = TurnableClock()
    return Limiter(
        store=GoneStore(),  # type: ignore[arg-type]  # it never gets to its sequence
        local=MemoryStore(clock),
        policy=Policy.of([]),
        replicas=1,
        on_store_failure=on_store_failure,
        observer=Silent(),
        clock=clock,
    )


async def test_charges_follow_the_declared_policy_while_the_store_is_down() -> None:
    group = Group(account_of("a"), RuleSet((Rule("r", Unit.REQUESTS, 0.01, 4),)))
    charges = [Charge(group, 1)] * 3
    allowing = await limiter("allow").charge(charges)
    assert [(made.admitted, made.source) for made in allowing] == [(True, "none")] * 3
    sharing = limiter("local")
    sharing.set_replicas(2)
    assert [made.admitted for made in await sharing.charge(charges)] == [True, True, False]
    with pytest.raises(Unavailable):
        await limiter("deny").charge(charges)
