"""One account: the levels of its rules, and the reservations that hold their bounds.

This is the algorithm in Python; `limiter.lua` is the same one in the store, and a test compares the
two step by step.

A bucket is a level that rises with what is charged and falls with time at the rule's rate; a budget
falls to nothing when its calendar window ends. What a reservation *holds* does not fall: it turns
into the real usage when settled, or into a charge of the whole bound when the reservation expires.
Charging the bound at once and refunding the difference later would leak, because the refund could
undo what the bucket had long forgotten. So for every window `charged ≤ burst + rate * time`, for
every day and month `charged ≤ limit`, and only usage beyond its own bound can exceed it.

A call that several accounts must agree to is *prepared* in each: what would be charged is held,
until it is committed everywhere or released everywhere. Both are exact, for the same reason.
"""

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final

import msgspec

from services.ratelimit.calendar_window import window
from services.ratelimit.ports import Operation, Outcome, Status, Verb
from services.ratelimit.rule import EVER_US, Mode, Rule, RuleSet

MARK_US: Final = 10_000_000
"""How long a settled reservation is remembered, so that a late repetition charges nothing."""
CEILING_PARTS: Final = 8_000_000_000_000_000
"""The highest level of a rule; beyond it a Lua number would lose parts."""
SLOT_RETRY_US: Final = 1_000_000
"""When to ask again for a slot; nobody knows when one is given back."""


class Level(msgspec.Struct):
    """How one rule stands, in parts, as of a time."""

    at_us: int
    used: int = 0
    held: int = 0

    def advance(self, to_us: int, rule: Rule) -> None:
        """Let what is charged fall until a time; a time in the past changes nothing."""
        if to_us <= self.at_us:
            return
        if rule.period:
            if to_us >= window(rule.period, self.at_us)[1]:
                self.used = 0
        else:
            self.used = max(0, self.used - math.floor((to_us - self.at_us) * rule.rate_parts))
        self.at_us = to_us

    def charge(self, amount: int) -> None:
        """Raise what is charged."""
        self.used = min(self.used + amount, CEILING_PARTS)

    def drop(self, amount: int) -> None:
        """Hold less."""
        self.held = max(0, self.held - amount)


class Kind(msgspec.Struct, frozen=True):
    """What a reservation holds of one rule, and why.

    Attributes:
        amount: in parts.
        slot: it is given back in any case.
        pending: it waits for the other accounts of the call.
        skipped: it is a shadow rule that would have refused, and is left alone to the end.
    """

    amount: int = 0
    slot: bool = False
    pending: bool = False
    skipped: bool = False


class Hold(msgspec.Struct):
    """A live reservation: its end, and what it holds of each rule."""

    expire_us: int
    parts: dict[str, Kind]


class Account:
    """The levels and reservations of one account."""

    __slots__ = ("_ends", "_holds", "_last_us", "_levels", "_marks", "idle_at_us")

    def __init__(self) -> None:
        """See the class."""
        self._levels: dict[str, Level] = {}
        self._holds: dict[bytes, Hold] = {}
        self._marks: dict[bytes, int] = {}
        # A heap of when reservations and marks end; what was settled or renewed since is skipped.
        self._ends: list[tuple[int, bytes]] = []
        self._last_us = 0  # no reservation or mark ends after
        self.idle_at_us = 0
        """When nothing is left to remember."""

    def apply(self, operation: Operation, now_us: int) -> Outcome:
        """Do one operation at a time that the store gives."""
        rules = operation.rules.rules
        changed = self._expire(operation.rules, now_us)
        kept = [self._level(rule.field, now_us) for rule in rules]
        levels = [Level(level.at_us, level.used, level.held) for level in kept]
        for level, rule in zip(levels, rules, strict=True):
            changed |= level.at_us > now_us  # the clock was set back: the refill must go on
            level.advance(now_us, rule)
            level.at_us = now_us
        if operation.verb in {Verb.RESERVE, Verb.PREPARE, Verb.CHARGE}:
            outcome = self._ask(operation, levels, now_us)
            changed |= outcome.status is Status.DONE
        elif operation.verb is Verb.PEEK:
            outcome = _outcome(levels, now_us, details=[level.held for level in levels])
        elif operation.identity not in self._holds:
            outcome = _outcome(levels, now_us, Status.UNKNOWN)
        else:
            outcome = self._follow(operation, levels, now_us)
            changed = True
        if changed:
            for old, new in zip(kept, levels, strict=True):
                old.at_us, old.used, old.held = new.at_us, new.used, new.held
            self._set_idle(rules, now_us)
        return outcome

    def _ask(self, operation: Operation, levels: Sequence[Level], now_us: int) -> Outcome:
        """Take what a call asks for, unless a rule refuses or it was taken before."""
        hold = self._holds.get(operation.identity)
        if hold is not None or operation.identity in self._marks:
            end_us = hold.expire_us if hold else 0
            return _outcome(levels, now_us, Status.REPEATED, expire_us=end_us)
        refused, retry_us, shadows = _refusal(
            operation.rules.rules, levels, operation.amounts, now_us
        )
        if refused >= 0:
            outcome = _outcome(levels, now_us, Status.REFUSED, shadows=shadows)
            return msgspec.structs.replace(outcome, refused=refused, retry_us=retry_us)
        end_us = self._take(operation, levels, now_us, shadows)
        return _outcome(levels, now_us, expire_us=end_us, shadows=shadows)

    def _follow(self, operation: Operation, levels: Sequence[Level], now_us: int) -> Outcome:
        """Do what a live reservation is told."""
        identity, rules = operation.identity, operation.rules.rules
        hold = self._holds[identity]
        if operation.verb is Verb.SETTLE:
            beyond = self._settle(operation, levels, now_us)
            return _outcome(levels, now_us, details=beyond)
        if operation.verb is Verb.RENEW:
            hold.expire_us = now_us + operation.time_to_live_us
            self._ends_at(hold.expire_us, identity)
            return _outcome(levels, now_us, expire_us=hold.expire_us)
        if operation.verb is Verb.RELEASE:
            self._drop(self._holds.pop(identity), rules, levels)
        else:
            self._commit(hold, rules, levels)
        return _outcome(levels, now_us)

    def _level(self, name: str, now_us: int) -> Level:
        level = self._levels.get(name)
        if level is None:
            level = self._levels[name] = Level(now_us)
        return level

    def _expire(self, rules: RuleSet, now_us: int) -> bool:
        """Charge reservations whose end has passed, as of their end; say whether there were any."""
        over = False
        named = {rule.field: rule for rule in rules.rules}
        while self._ends and self._ends[0][0] <= now_us:
            end_us, identity = heappop(self._ends)
            if self._marks.get(identity) == end_us:
                del self._marks[identity]
            hold = self._holds.get(identity)
            if hold is None or hold.expire_us != end_us:
                continue
            over = True
            for name, kind in self._holds.pop(identity).parts.items():
                level = self._level(name, end_us)
                if name in named:
                    level.advance(end_us, named[name])
                level.drop(kind.amount)
                if not kind.slot:
                    level.charge(kind.amount)
        return over

    def _ends_at(self, end_us: int, identity: bytes) -> None:
        heappush(self._ends, (end_us, identity))
        self._last_us = max(self._last_us, end_us)

    def _take(
        self, operation: Operation, levels: Sequence[Level], now_us: int, shadows: int
    ) -> int:
        """Charge and hold what a call asks for; return the end of its reservation."""
        hold = Hold(now_us + operation.time_to_live_us, {})
        prepared, kept = operation.verb is Verb.PREPARE, operation.verb is not Verb.CHARGE
        asked = zip(operation.rules.rules, levels, operation.amounts, strict=True)
        for index, (rule, level, amount) in enumerate(asked):
            if shadows >> index & 1:
                hold.parts[rule.field] = Kind(skipped=True)
            elif kept and (rule.mode & (Mode.HELD | Mode.SLOT) or prepared):
                if amount:
                    level.held += amount
                    slot = bool(rule.mode & Mode.SLOT)
                    pending = not rule.mode & (Mode.HELD | Mode.SLOT)
                    hold.parts[rule.field] = Kind(amount, slot, pending)
            else:
                level.charge(amount)
        if not kept:
            return 0
        self._holds[operation.identity] = hold
        self._ends_at(hold.expire_us, operation.identity)
        return hold.expire_us

    def _drop(
        self, hold: Hold, rules: Sequence[Rule], levels: Sequence[Level], *, commit: bool = False
    ) -> None:
        """Hold no more of what a reservation holds; with `commit` only what is pending."""
        named = {rule.field: level for rule, level in zip(rules, levels, strict=True)}
        for name, kind in hold.parts.items():
            level = named.get(name) or self._levels[name]
            if kind.pending or not commit:
                level.drop(kind.amount)

    def _commit(self, hold: Hold, rules: Sequence[Rule], levels: Sequence[Level]) -> None:
        """Charge what was prepared."""
        self._drop(hold, rules, levels, commit=True)
        named = {rule.field: level for rule, level in zip(rules, levels, strict=True)}
        for name, kind in list(hold.parts.items()):
            if kind.pending:
                (named.get(name) or self._levels[name]).charge(kind.amount)
                del hold.parts[name]

    def _settle(self, operation: Operation, levels: Sequence[Level], now_us: int) -> list[int]:
        """Replace what a reservation holds by the real usage; return what was beyond the bound."""
        rules, hold = operation.rules.rules, self._holds.pop(operation.identity)
        self._commit(hold, rules, levels)
        self._drop(hold, rules, levels)
        beyond = [0] * len(rules)
        asked = zip(rules, levels, operation.amounts, strict=True)
        for index, (rule, level, amount) in enumerate(asked):
            kind = hold.parts.get(rule.field, Kind())
            if rule.mode & Mode.HELD and not kind.skipped:
                level.charge(amount)
                beyond[index] = max(0, amount - kind.amount)
        if operation.marked:
            self._marks[operation.identity] = now_us + MARK_US
            self._ends_at(now_us + MARK_US, operation.identity)
        return beyond

    def _set_idle(self, rules: Sequence[Rule], now_us: int) -> None:
        full_us = max(self._last_us, now_us)
        for rule in rules:
            level = self._levels[rule.field]
            total = level.used + level.held
            if total and rule.period:
                full_us = max(full_us, window(rule.period, full_us)[1])
            elif total and rule.rate_parts:
                drain_us = min(math.ceil(total / rule.rate_parts), EVER_US)
                full_us = max(full_us, max(self._last_us, now_us) + drain_us)
        # Levels of rules that are not asked for now, another model's for one, are left in peace.
        others = len(self._levels) > len(rules)
        self.idle_at_us = max(full_us, self.idle_at_us) if others else full_us


def _refusal(
    rules: Sequence[Rule], levels: Sequence[Level], amounts: Sequence[int], now_us: int
) -> tuple[int, int, int]:
    """Return the rule that refuses longest (-1: none), for how long (-1: ever), and the shadows."""
    refused, retry_us, shadows = -1, 0, 0
    for index, (rule, level, amount) in enumerate(zip(rules, levels, amounts, strict=True)):
        excess = level.used + level.held + amount - rule.limit_parts
        if excess <= 0:
            continue
        if rule.shadow:
            shadows |= 1 << index
            continue
        if amount > rule.limit_parts:
            wait_us = -1
        elif rule.mode & Mode.SLOT:
            wait_us = SLOT_RETRY_US
        elif rule.period:
            wait_us = window(rule.period, now_us)[1] - now_us
        else:
            wait_us = min(math.ceil(excess / rule.rate_parts), EVER_US)
        if refused < 0 or (retry_us >= 0 and (wait_us < 0 or wait_us > retry_us)):
            refused, retry_us = index, wait_us
    return refused, retry_us, shadows


def _outcome(  # noqa: PLR0913 - its fields
    levels: Sequence[Level],
    now_us: int,
    status: Status = Status.DONE,
    *,
    expire_us: int = 0,
    shadows: int = 0,
    details: Sequence[int] = (),
) -> Outcome:
    used = [level.used + level.held for level in levels]
    return Outcome(status, -1, 0, expire_us, now_us, shadows, used, list(details))
