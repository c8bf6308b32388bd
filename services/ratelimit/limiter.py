"""The decision: what the store says, or what is declared for when the store is down.

A reservation made in this replica's memory is settled there too, also after the store is back. One
made in the store and settled while it is down is settled there when it is back; until then it stays
charged with its bound: never too little.
"""

import asyncio
from collections.abc import Sequence
from typing import Literal

from services.common.clock import Clock
from services.common.errors import NotFound, Unavailable
from services.ratelimit import decision
from services.ratelimit.decision import Decision, Settled, Source, Standing
from services.ratelimit.owed import Owed
from services.ratelimit.plan import (
    Call,
    Charge,
    Plan,
    Renewal,
    Reservation,
    Settlement,
    charging,
    finish,
    peeking,
    renewing,
    reserving,
    settling,
)
from services.ratelimit.policy import Policy
from services.ratelimit.ports import (
    Caller,
    Observer,
    Operation,
    Outcome,
    Status,
    Store,
    StoreUnavailable,
)

OnStoreFailure = Literal["local", "deny", "allow"]


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
        self._finishing: set[asyncio.Task[None]] = set()
        self._owed = Owed(store, observer)
        self.adopt(policy)

    @property
    def policy(self) -> Policy:
        """What decides now."""
        return self._policy

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What applies while the store is down."""
        return self._on_store_failure

    def adopt(self, policy: Policy) -> None:
        """Decide by another policy from the next call on."""
        self._policy = policy
        self._share = policy.share(self._replicas)

    def set_replicas(self, replicas: int) -> None:
        """Take another share of the limits while the store is down."""
        if replicas != self._replicas:
            self._replicas = replicas
            self._share = self._policy.share(replicas)

    def pay(self) -> None:
        """Settle in the store, in the background, what ended while it was down."""
        if self._owed and not self._owed.paying:
            self._keep(asyncio.create_task(self._owed.pay(self._policy)))

    async def close(self) -> None:
        """Wait for what is on its way to the store."""
        if self._finishing:
            await asyncio.wait(self._finishing)

    async def reserve(self, reservations: Sequence[Reservation]) -> list[Decision]:
        """Decide on reservations in order, in one round trip.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """
        return (await self.settle_and_reserve((), reservations))[1]

    async def settle_and_reserve(
        self, settlements: Sequence[Settlement], reservations: Sequence[Reservation]
    ) -> tuple[list[Settled], list[Decision]]:
        """Settle, then decide on reservations in order, all in one round trip.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """

        def plan(policy: Policy) -> list[Call]:
            calls = [settling(policy, item) for item in settlements]
            return calls + [reserving(policy, item) for item in reservations]

        plans, answers, policy, source = await self._decide(plan)
        settled: list[Settled] = []
        if settlements:
            settled = await self._settled(settlements, plans, answers, source, look=False)
            plans, answers = plans[len(settlements) :], answers[len(settlements) :]
        if source == "none":
            decisions = [Decision(True, (), "", None, policy.version, source)] * len(reservations)  # noqa: FBT003 - a struct takes no names cheaply
        else:
            decisions = []
            commits: list[Operation] = []
            releases: list[Operation] = []
            for call, outcomes in zip(plans, answers, strict=True):
                made = decision.verdict(call, outcomes, policy, source)
                decisions.append(made)
                if len(call.groups) > 1:
                    finish(
                        call.operations,
                        outcomes,
                        admitted=made.admitted,
                        commits=commits,
                        releases=releases,
                    )
            if commits:
                self._in_background(commits, source)
            if releases:
                # Before the answer, so that whoever reads a refusal finds everything given back.
                await self._send(releases, source)
        for made in decisions:
            self._observer.decided(admitted=made.admitted, rule=made.refused_by, source=source)
            for rule in made.shadows:
                self._observer.shadow_refused(rule)
        return settled, decisions

    async def settle(
        self, settlements: Sequence[Settlement], *, look: bool = True
    ) -> list[Settled]:
        """Replace bounds by real usage, in one round trip; `look` at how the rules stand then.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """

        def plan(policy: Policy) -> list[Call]:
            return [settling(policy, item) for item in settlements]

        plans, answers, _, source = await self._decide(plan)
        return await self._settled(settlements, plans, answers, source, look=look)

    async def _settled(
        self,
        settlements: Sequence[Settlement],
        plans: Sequence[Call],
        answers: Sequence[Sequence[Outcome]],
        source: Source,
        *,
        look: bool,
    ) -> list[Settled]:
        """Return what settling did; the plans and answers begin with those of the settlements."""
        if source != "store":
            for item in settlements:
                self._owed.add(item)
        if source == "none":
            return [Settled(settled=False, standings=())] * len(settlements)
        results = []
        for item, call, outcomes in zip(settlements, plans, answers, strict=False):
            known = outcomes[-1].status is Status.DONE
            beyond = decision.beyond_bound(call.groups, outcomes) if known else {}
            for unit, amount in beyond.items():
                self._observer.used_beyond_bound(unit.value, amount)
            if not known and source == "store" and self._on_store_failure == "local":
                here = settling(self._share, item).operations
                known = (await self._local.apply(here))[-1].status is Status.DONE
            found = decision.standings(call.groups, outcomes) if look else ()
            results.append(Settled(known, found, beyond))
        return results

    async def renew(self, renewals: Sequence[Renewal]) -> list[int]:
        """Extend reservations; return the new end of each, in Unix microseconds, 0 for unknown.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """

        def plan(policy: Policy) -> list[Call]:
            return [renewing(policy, item) for item in renewals]

        _, answers, _, source = await self._decide(plan)
        now_us = int(self._clock.time() * 1_000_000)
        if source == "none":
            return [now_us + item.time_to_live_us for item in renewals]
        ends = []
        for item, outcomes in zip(renewals, answers, strict=True):
            end_us = outcomes[-1].expire_us
            if not end_us and source == "store" and self._on_store_failure == "local":
                here = renewing(self._share, item).operations
                end_us = (await self._local.apply(here))[-1].expire_us
            ends.append(end_us)
        return ends

    async def renew_one(self, renewal: Renewal) -> int:
        """Extend one reservation and return its new end, in Unix microseconds.

        Raises:
            NotFound: there is no such live reservation of this caller.
            Unavailable: the store is down and that means `deny`.
        """
        (end_us,) = await self.renew((renewal,))
        if not end_us:
            msg = "No such live reservation."
            raise NotFound(msg, reason="RESERVATION_NOT_FOUND")
        return end_us

    async def peek(
        self, caller: Caller, model: str | None = ""
    ) -> tuple[Sequence[Standing], str, Source]:
        """Return how the rules stand for a caller, the policy's version and where it was read.

        No model (None) reads the caller's rules of every model.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """

        def plan(policy: Policy) -> list[Call]:
            return [peeking(policy, caller, model)]

        plans, answers, policy, source = await self._decide(plan)
        if source == "none":
            return [], policy.version, source
        return decision.standings(plans[0].groups, answers[0]), policy.version, source

    async def charge(self, charges: Sequence[Charge]) -> list[Decision]:
        """Take requests from accounts, each decided by itself, in one round trip.

        Raises:
            Unavailable: the store is down and that means `deny`.
        """

        def plan(policy: Policy) -> list[Call]:
            return [charging(item, self._replicas, policy is self._share) for item in charges]

        plans, answers, policy, source = await self._decide(plan)
        if source == "none":
            made = [Decision(True, (), "", None, policy.version, source)] * len(charges)  # noqa: FBT003 - see above
        else:
            made = [
                decision.verdict(call, outcomes, policy, source)
                for call, outcomes in zip(plans, answers, strict=True)
            ]
        for one in made:
            self._observer.decided(admitted=one.admitted, rule=one.refused_by, source=source)
            for rule in one.shadows:
                self._observer.shadow_refused(rule)
        return made

    async def _decide(
        self, plan: Plan
    ) -> tuple[list[Call], list[Sequence[Outcome]], Policy, Source]:
        """Ask the store, or do what is declared for when it is down; no outcomes for `none`."""
        policy, started = self._policy, self._clock.monotonic()
        source: Source = "store"
        plans = plan(policy)
        try:
            outcomes = await self._store.apply([one for call in plans for one in call.operations])
        except StoreUnavailable:
            if self._on_store_failure == "allow":
                return [], [], policy, "none"
            if self._on_store_failure == "deny":
                msg = "The limits cannot be checked now; try again."
                raise Unavailable(msg, reason="RATELIMIT_UNAVAILABLE", retry_after_s=1.0) from None
            policy, source = self._share, "local"
            plans = plan(policy)
            outcomes = await self._local.apply([one for call in plans for one in call.operations])
        else:
            self._observer.store_answered(self._clock.monotonic() - started)
            if self._owed:
                self.pay()
        if len(outcomes) == len(plans):
            return plans, [(outcome,) for outcome in outcomes], policy, source
        answers, at = [], 0
        for call in plans:
            answers.append(outcomes[at : at + len(call.groups)])
            at += len(call.groups)
        return plans, answers, policy, source

    def _in_background(self, operations: list[Operation], source: Source) -> None:
        self._keep(asyncio.create_task(self._send(operations, source)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    async def _send(self, operations: list[Operation], source: Source) -> None:
        """Commit or release; what does not arrive stays held until it is settled or ends."""
        store = self._store if source == "store" else self._local
        try:
            await store.apply(operations)
        except StoreUnavailable:
            return
