"""What the limiter answers: how each rule stands, and what all accounts of a call say together."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from services.ratelimit.calendar_window import window
from services.ratelimit.plan import Call
from services.ratelimit.policy import Group, Policy
from services.ratelimit.ports import Outcome, Status
from services.ratelimit.rule import EVER_US, MICRO, Rule, Scope, Unit

Source = Literal["store", "local", "none"]


class Standing(msgspec.Struct, frozen=True):
    """How one rule stands for a caller.

    Attributes:
        rule: the rule.
        used_parts: what is charged and held.
        now_us: when, in the store's time.
        key: the tenant, role or model that the rule counts; empty for others.
        held_parts: what live reservations hold of it; known after a look only.
        refuses: whether it refused the call.
    """

    rule: Rule
    used_parts: int
    now_us: int = 0
    key: str = ""
    held_parts: int = 0
    refuses: bool = False

    @property
    def remaining(self) -> int:
        """Whole units that are left."""
        return max(0, (self.rule.limit_parts - self.used_parts) // self.rule.scale)

    @property
    def used(self) -> int:
        """Units charged and held, begun ones counted whole; above the limit for one in debt."""
        return -(-self.used_parts // self.rule.scale)

    @property
    def held(self) -> int:
        """Units that live reservations hold."""
        return -(-self.held_parts // self.rule.scale)

    @property
    def reset_after_us(self) -> int | None:
        """Until the limit is whole again; None when nobody knows."""
        rule = self.rule
        if rule.unit is Unit.CONCURRENCY:
            return None
        if rule.period:
            return window(rule.period, self.now_us)[1] - self.now_us
        return min(int(self.used_parts / rule.rate_parts), EVER_US)

    @property
    def window_us(self) -> int | None:
        """The time that the limit refers to; None for requests in flight."""
        rule = self.rule
        if rule.unit is Unit.CONCURRENCY:
            return None
        if rule.period:
            start, end = window(rule.period, self.now_us)
            return end - start
        return min(int(rule.window_s * MICRO), EVER_US)

    @property
    def tightness(self) -> float:
        """What share of the limit is used."""
        return self.used_parts / self.rule.limit_parts


class Decision(msgspec.Struct, frozen=True):
    """The verdict on one reservation.

    Attributes:
        admitted: whether the call may be made.
        standings: every rule, the tightest first.
        refused_by: the rule that refused; empty when admitted.
        retry_after_us: until a retry is worth it; None when admitted, or when it never is.
        policy_version: what decided.
        source: where it was decided.
        expire_us: the end of the reservation, in the store's time; 0 without one.
        shadows: names of the rules in shadow mode that would have refused.
    """

    admitted: bool
    standings: Sequence[Standing]
    refused_by: str
    retry_after_us: int | None
    policy_version: str
    source: Source
    expire_us: int = 0
    shadows: Sequence[str] = ()


class Settled(msgspec.Struct, frozen=True):
    """What settling did.

    Attributes:
        settled: whether there was something to settle.
        standings: how the rules stand now.
        beyond: units used beyond the bound, which were charged too.
    """

    settled: bool
    standings: Sequence[Standing]
    beyond: dict[Unit, int] = {}


def verdict(call: Call, outcomes: Sequence[Outcome], policy: Policy, source: Source) -> Decision:
    """Return what the accounts of one call say together; all must agree.

    Args:
        call: its accounts, and what was asked of each.
        outcomes: what each said.
        policy: what they decided by.
        source: where they are.
    """
    groups = call.groups
    if len(groups) == 1 and outcomes[0].status is not Status.REFUSED and not outcomes[0].shadows:
        found, end_us = standings(groups, outcomes), outcomes[0].expire_us
        return Decision(True, found, "", None, policy.version, source, end_us)  # noqa: FBT003 - a struct takes no names cheaply
    retry_us, refusing = 0, -1
    for index, outcome in enumerate(outcomes):
        if outcome.status is Status.REFUSED and (
            refusing < 0 or (retry_us >= 0 and not 0 <= outcome.retry_us <= retry_us)
        ):
            refusing, retry_us = index, outcome.retry_us
    shadows: list[str] = []
    for group, outcome in zip(groups, outcomes, strict=True):
        if outcome.shadows:
            rules = enumerate(group.rules.rules)
            shadows += [rule.name for index, rule in rules if outcome.shadows >> index & 1]
    if refusing < 0:
        return Decision(
            True,  # noqa: FBT003 - a struct takes no names cheaply
            standings(groups, outcomes),
            "",
            None,
            policy.version,
            source,
            outcomes[-1].expire_us,
            shadows,
        )
    rule = groups[refusing].rules.rules[outcomes[refusing].refused]
    return Decision(
        False,  # noqa: FBT003 - see above
        standings(groups, _as_if_never(call, outcomes), refusing),
        rule.name,
        None if retry_us < 0 else retry_us,
        policy.version,
        source,
        0,
        shadows,
    )


def standings(
    groups: Sequence[Group], outcomes: Sequence[Outcome], refusing: int = -1
) -> list[Standing]:
    """Return how every rule of every account stands, the tightest first."""
    if len(groups) == 1 and not outcomes[0].details:
        (group,), (outcome,) = groups, outcomes
        found = [
            Standing(rule, used, outcome.now_us)
            for rule, used in zip(group.rules.rules, outcome.used, strict=True)
        ]
        if refusing == 0:
            index = outcome.refused
            found[index] = msgspec.structs.replace(found[index], refuses=True)
    else:
        found = [
            Standing(
                rule,
                used,
                outcome.now_us,
                group.key if rule.scope is not Scope.PRINCIPAL else "",
                outcome.details[at] if outcome.details else 0,
                index == refusing and at == outcome.refused,
            )
            for index, (group, outcome) in enumerate(zip(groups, outcomes, strict=True))
            for at, (rule, used) in enumerate(zip(group.rules.rules, outcome.used, strict=True))
        ]
    if len(found) > 1:
        found.sort(key=lambda standing: standing.tightness, reverse=True)
    return found


def beyond_bound(groups: Sequence[Group], outcomes: Sequence[Outcome]) -> dict[Unit, int]:
    """Return for each unit how much more was used than any account held for it."""
    found: dict[Unit, int] = {}
    for group, outcome in zip(groups, outcomes, strict=True):
        for rule, parts in zip(group.rules.rules, outcome.details, strict=False):
            if parts:
                found[rule.unit] = max(found.get(rule.unit, 0), parts // rule.scale)
    return found


def _as_if_never(call: Call, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return how accounts that agreed to a refused call stand once it is released."""
    return [
        msgspec.structs.replace(
            outcome,
            used=[
                used if outcome.shadows >> index & 1 else used - operation.amounts[index]
                for index, used in enumerate(outcome.used)
            ],
        )
        if outcome.status is Status.DONE
        else outcome
        for operation, outcome in zip(call.operations, outcomes, strict=True)
    ]
