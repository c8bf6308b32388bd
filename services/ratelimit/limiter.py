"""The decision: what the store says, or what is declared for when the store is down.

A reservation made in this replica's memory is settled there too, also after the store is back. One
made in the store and settled while it is down stays charged with its bound: never too little.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from services.common.clock import Clock
from services.common.errors import NotFound, Unavailable
from services.ratelimit.policy import MICRO, Policy, Rule
from services.ratelimit.ports import (
    Caller,
    Observer,
    Operation,
    Outcome,
    Status,
    Store,
    StoreUnavailable,
    Verb,
)

OnStoreFailure = Literal["local", "deny", "allow"]
Source = Literal["store", "local", "none"]


class Reservation(msgspec.Struct, frozen=True):
    """What a caller asks for before a call: requests, and the bound of what it can use."""

    caller: Caller
    id: bytes
    requests: int = 1
    tokens: int = 0
    time_to_live_us: int = 60_000_000


class Settlement(msgspec.Struct, frozen=True):
    """What a reserved call really used."""

    caller: Caller
    id: bytes
    tokens: int = 0


class Standing(msgspec.Struct, frozen=True):
    """How one rule stands for a caller."""

    rule: Rule
    used_micro: int

    @property
    def remaining(self) -> int:
        """Whole units that are left."""
        return max(0, (self.rule.burst_micro - self.used_micro) // MICRO)

    @property
    def used(self) -> int:
        """Units charged and held, begun ones counted whole; above the burst for one in debt."""
        return -(-self.used_micro // MICRO)

    @property
    def reset_after_us(self) -> int:
        """Until the bucket is full again."""
        return int(self.used_micro / self.rule.rate_per_s)

    @property
    def tightness(self) -> float:
        """What share of the burst is used."""
        return self.used_micro / self.rule.burst_micro


class Decision(msgspec.Struct, frozen=True):
    """The verdict on one reservation.

    Attributes:
        admitted: whether the call may be made.
        standings: every rule, the tightest first.
        refused_by: the rule that refused; empty when admitted.
        retry_after_us: until a retry is worth it; None when admitted, or when it never is.
        policy_version: what decided.
        source: where it was decided.
    """

    admitted: bool
    standings: Sequence[Standing]
    refused_by: str
    retry_after_us: int | None
    policy_version: str
    source: Source


class Settled(msgspec.Struct, frozen=True):
    """What settling did: whether there was something to settle, and how the rules stand."""

    settled: bool
    standings: Sequence[Standing]


class Limiter:
    """Decides, settles and reports for callers.

    Args:
        store: the shared accounts.
        local: this replica's accounts, for when the store is down.
        policy: the rules.
        replicas: how many replicas share the limits while they cannot see each other.
        on_store_failure: `local` decides here with this replica's share, `deny` answers
            UNAVAILABLE, `allow` admits everything.
        observer: counts.
        clock: measures the store.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour or one declared choice
        self,
        *,
        store: Store,
        local: Store,
        policy: Policy,
        replicas: int,
        on_store_failure: OnStoreFailure,
        observer: Observer,
        clock: Clock,
    ) -> None:
        """See the class."""
        self._store = store
        self._local = local
        self._replicas = replicas
        self._on_store_failure = on_store_failure
        self._observer = observer
        self._clock = clock
        self.adopt(policy)

    def adopt(self, policy: Policy) -> None:
        """Decide by another policy from the next call on."""
        self._policy = policy
        self._share = policy.share(self._replicas)

    async def reserve(self, reservations: Sequence[Reservation]) -> list[Decision]:
        """Decide on reservations in order, in one round trip.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """
        operations = [
            Operation(
                Verb.RESERVE,
                item.caller,
                self._policy.amounts(requests=item.requests, tokens=item.tokens),
                item.id,
                item.time_to_live_us,
            )
            for item in reservations
        ]
        outcomes, policy, source = await self._decide(operations)
        if source == "none":
            decisions = [Decision(True, (), "", None, policy.version, source)] * len(operations)  # noqa: FBT003 - a struct takes no names cheaply
        else:
            decisions = [_decision(outcome, policy, source) for outcome in outcomes]
        for decision in decisions:
            self._observer.decided(
                admitted=decision.admitted, rule=decision.refused_by, source=source
            )
        return decisions

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Replace bounds by real usage, in one round trip.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """
        operations = [
            Operation(Verb.SETTLE, item.caller, self._policy.amounts(tokens=item.tokens), item.id)
            for item in settlements
        ]
        outcomes, policy, source = await self._decide(operations)
        if source == "none":
            return [Settled(settled=False, standings=())] * len(operations)
        results = []
        for operation, outcome in zip(operations, outcomes, strict=True):
            known = outcome.status is Status.DONE
            if not known and source == "store" and self._on_store_failure == "local":
                known = await self._apply_locally(operation) is not None
            results.append(Settled(known, _standings(outcome, policy)))
        return results

    async def renew(self, caller: Caller, reservation_id: bytes, time_to_live_us: int) -> int:
        """Extend a reservation and return its new end, in Unix microseconds.

        Raises:
            NotFound: there is no such live reservation of this caller.
            Unavailable: the store is down and that means `deny`.
        """
        operation = Operation(
            Verb.RENEW, caller, self._policy.amounts(), reservation_id, time_to_live_us
        )
        outcomes, _, source = await self._decide([operation])
        if source == "store" and outcomes[0].status is Status.DONE:
            return outcomes[0].expire_us
        local = outcomes[0] if outcomes and source == "local" else None
        if source == "store" and self._on_store_failure == "local":
            local = await self._apply_locally(operation)
        if source == "none" or (local is not None and local.status is Status.DONE):
            return int(self._clock.time() * 1_000_000) + time_to_live_us
        msg = "No such live reservation."
        raise NotFound(msg, reason="RESERVATION_NOT_FOUND")

    async def peek(self, caller: Caller) -> tuple[Sequence[Standing], str, Source]:
        """Return how the rules stand for a caller, the policy's version and where it was read.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """
        operation = Operation(Verb.PEEK, caller, self._policy.amounts())
        outcomes, policy, source = await self._decide([operation])
        standings = [standing for outcome in outcomes for standing in _standings(outcome, policy)]
        return standings, policy.version, source

    async def _decide(
        self, operations: Sequence[Operation]
    ) -> tuple[Sequence[Outcome], Policy, Source]:
        """Ask the store, or do what is declared for when it is down; no outcomes for `none`."""
        policy, started = self._policy, self._clock.monotonic()
        try:
            outcomes = await self._store.apply(operations, policy)
        except StoreUnavailable:
            if self._on_store_failure == "allow":
                return (), policy, "none"
            if self._on_store_failure == "deny":
                msg = "The limits cannot be checked now; try again."
                raise Unavailable(msg, reason="RATELIMIT_UNAVAILABLE", retry_after_s=1.0) from None
            return await self._local.apply(operations, self._share), self._share, "local"
        self._observer.store_answered(self._clock.monotonic() - started)
        return outcomes, policy, "store"

    async def _apply_locally(self, operation: Operation) -> Outcome | None:
        """Apply to this replica's accounts what the store does not know; None if neither does."""
        (outcome,) = await self._local.apply([operation], self._share)
        return outcome if outcome.status is Status.DONE else None


def _decision(outcome: Outcome, policy: Policy, source: Source) -> Decision:
    admitted = outcome.status is not Status.REFUSED
    return Decision(
        admitted,
        _standings(outcome, policy),
        "" if admitted else policy.rules[outcome.refused].name,
        None if admitted or outcome.retry_us < 0 else outcome.retry_us,
        policy.version,
        source,
    )


def _standings(outcome: Outcome, policy: Policy) -> list[Standing]:
    standings = list(map(Standing, policy.rules, outcome.used))
    if len(standings) > 1:
        standings.sort(key=lambda standing: standing.tightness, reverse=True)
    return standings
