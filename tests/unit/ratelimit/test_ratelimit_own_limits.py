"""The limits that a principal brings along: in the place of the policy's, for them alone."""

import os
from collections.abc import Sequence

import pytest

from services.common.clock import Clock
from services.common.errors import InvalidArgument
from services.ratelimit.limiter import Limiter
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.own_limits import OwnLimits
from services.ratelimit.own_messages import own_limits
from services.ratelimit.plan import Reservation, Settlement
from services.ratelimit.policy import CACHED_POLICIES, Policy
from services.ratelimit.ports import Caller, Operation, Outcome, StoreUnavailable
from services.ratelimit.rule import Match, Rule, Scope, Unit
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb

POLICY = Policy.of(
    [
        Rule("requests", Unit.REQUESTS, 0.001, 9, match=Match(subjects=("favoured*",))),
        Rule("requests", Unit.REQUESTS, 0.001, 2),
        Rule("team", Unit.REQUESTS, 0.001, 6, scope=Scope.TENANT),
    ]
)


class StillClock:
    """A clock that stands."""

    def time(self) -> float:
        return 1_790_000_000.0

    def monotonic(self) -> float:
        return 50.0


class Store:
    """A store that can be switched off."""

    def __init__(self, clock: Clock) -> None:
        self._store = MemoryStore(clock)
        self.up = True

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        if not self.up:
            raise StoreUnavailable
        return await self._store.apply(operations)


class Quiet:
    """An observer that does not listen."""

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        pass

    def shadow_refused(self, rule: str) -> None:
        pass

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        pass

    def store_answered(self, seconds: float) -> None:
        pass


class Rig:
    """A limiter over a store."""

    def __init__(self, replicas: int = 1) -> None:
        clock = StillClock()
        self.store = Store(clock)
        self.limiter = Limiter(
            store=self.store,
            local=MemoryStore(clock),
            policy=POLICY,
            replicas=replicas,
            on_store_failure="local",
            observer=Quiet(),
            clock=clock,
        )

    async def admitted(self, caller: Caller, calls: int, tokens: int = 1) -> int:
        asked = [Reservation(caller, os.urandom(16), 1, tokens) for _ in range(calls)]
        return sum(made.admitted for made in await self.limiter.reserve(asked))


def caller(subject: str = "key", limits: OwnLimits | None = None, tenant: str = "t") -> Caller:
    return Caller(tenant, "apikey", subject, "gateway", limits=limits)


@pytest.mark.parametrize(("burst", "admitted"), [(1, 1), (4, 4)])
async def test_they_hold_in_the_place_of_the_policy_s_be_they_tighter_or_wider(
    burst: int, admitted: int
) -> None:
    rig = Rig()
    own = caller("favoured", OwnLimits(requests_per_second=0.001, burst=burst))
    assert await rig.admitted(own, 6) == admitted
    assert await rig.admitted(caller("other", tenant="u"), 6) == 2


async def test_the_ceiling_of_a_tenant_holds_beside_them() -> None:
    own = caller(limits=OwnLimits(requests_per_second=0.001, burst=100))
    assert await Rig().admitted(own, 20) == 6


async def test_limits_of_other_kinds_stay_the_policy_s() -> None:
    own = caller(limits=OwnLimits(tokens_per_day=100))
    assert await Rig().admitted(own, 9) == 2


async def test_a_budget_is_held_and_settled_like_any_other() -> None:
    rig = Rig()
    own = caller(limits=OwnLimits(requests_per_second=0.001, burst=5, tokens_per_day=100))
    asked = Reservation(own, b"r" * 16, 1, 90)
    (first,) = await rig.limiter.reserve([asked])
    assert first.admitted
    (second,) = await rig.limiter.reserve([Reservation(own, b"s" * 16, 1, 90)])
    assert (second.admitted, second.refused_by) == (False, "tokens_per_day")
    (settled,) = await rig.limiter.settle([Settlement(own, b"r" * 16, 5)])
    assert settled.settled
    assert await rig.admitted(own, 1, 90) == 1


async def test_they_hold_while_the_store_is_down_divided_among_the_replicas() -> None:
    rig = Rig(replicas=2)
    rig.store.up = False
    own = caller(limits=OwnLimits(requests_per_second=0.002, burst=4))
    assert await rig.admitted(own, 9) == 2


async def test_the_version_of_a_decision_is_the_policy_s() -> None:
    rig = Rig()
    own = caller(limits=OwnLimits(concurrency=1))
    (made,) = await rig.limiter.reserve([Reservation(own, b"r" * 16)])
    assert made.policy_version == POLICY.version
    names = {standing.rule.name for standing in made.standings}
    assert names == {"requests", "team", "concurrency"}


def test_what_is_kept_of_them_is_bounded() -> None:
    for burst in range(1, 2 * CACHED_POLICIES):
        POLICY.with_own(OwnLimits(requests_per_second=1, burst=burst))
    assert len(POLICY._with_own) <= CACHED_POLICIES


@pytest.mark.parametrize(
    "fields",
    [
        {"requests_per_second": -1.0},
        {"requests_per_second": float("inf")},
        {"burst": -1},
        {"tokens_per_day": 2**40},
        {"concurrency": 2_000_000},
    ],
)
def test_a_limit_that_cannot_be_is_named(fields: dict[str, float]) -> None:
    message = pb.OwnLimits(**fields)  # type: ignore[arg-type] # each field has its own type
    with pytest.raises(InvalidArgument, match=f"own_limits.{next(iter(fields))}"):
        own_limits(message, "")
