"""One caller's account: token buckets, and the reservations that hold their bounds.

This is the algorithm in Python; `limiter.lua` is the same one in the store, and a test compares the
two step by step.

A bucket is a level that rises with what is charged and falls with time at the rule's rate. Requests
are charged when reserved. Tokens are *held* when reserved: a held bound does not fall
with time, and turns into the real usage when settled, or into a charge of the whole bound when the
reservation expires. Charging the bound at once and refunding the difference later would leak,
because the refund could undo what the bucket had long forgotten. So for every window
`charged ≤ burst + rate * time`, and only usage beyond its own bound can exceed it.
"""

import math
from collections.abc import Sequence
from heapq import heappop, heappush

import msgspec

from services.ratelimit.policy import Policy, Rule
from services.ratelimit.ports import Operation, Outcome, Status, Verb

MARK_US = 10_000_000
"""How long a settled reservation is remembered, so that a late repetition charges nothing."""

CEILING_MICRO = 8_000_000_000_000_000
"""The highest level of a bucket; beyond it a Lua number would lose units."""


class Bucket(msgspec.Struct):
    """The level of one rule, in micro-units, as of a time."""

    at_us: int
    used: int = 0
    held: int = 0

    def advance(self, now_us: int, rate: float) -> None:
        """Let what is charged fall until a time; a time in the past changes nothing."""
        if now_us > self.at_us:
            self.used = max(0, self.used - math.floor((now_us - self.at_us) * rate))
            self.at_us = now_us


class Hold(msgspec.Struct):
    """A live reservation: its end, and what it holds of each rule."""

    expire_us: int
    amounts: dict[str, int]


class Account:
    """The buckets and reservations of one caller."""

    __slots__ = ("_buckets", "_ends", "_holds", "_last_us", "_marks", "idle_at_us")

    def __init__(self) -> None:
        """See the class."""
        self._buckets: dict[str, Bucket] = {}
        self._holds: dict[tuple[str, bytes], Hold] = {}
        self._marks: dict[tuple[str, bytes], int] = {}
        # A heap of when reservations and marks end; what was settled or renewed since is skipped.
        self._ends: list[tuple[int, tuple[str, bytes]]] = []
        self._last_us = 0  # no reservation or mark ends after
        self.idle_at_us = 0
        """When nothing is left to remember."""

    def apply(self, operation: Operation, policy: Policy, now_us: int) -> Outcome:
        """Do one operation at a time that the store gives."""
        changed = self._expire(policy, now_us)
        stored = [self._bucket(rule, now_us) for rule in policy.rules]
        buckets = [Bucket(bucket.at_us, bucket.used, bucket.held) for bucket in stored]
        for bucket, rule in zip(buckets, policy.rules, strict=True):
            changed |= bucket.at_us > now_us  # the clock was set back: the refill must go on
            bucket.advance(now_us, rule.rate_per_s)
            bucket.at_us = now_us
        refused, retry_us, expire_us = -1, 0, 0
        status = Status.DONE
        identity = (operation.caller.peer, operation.reservation_id)
        hold = self._holds.get(identity)
        match operation.verb:
            case Verb.RESERVE if hold is not None or identity in self._marks:
                status = Status.REPEATED
                expire_us = hold.expire_us if hold else 0
            case Verb.RESERVE:
                refused, retry_us = _refusal(policy, buckets, operation.amounts)
                if refused < 0:
                    expire_us = now_us + operation.time_to_live_us
                    self._reserve(identity, operation, policy, buckets, expire_us)
                    changed = True
                else:
                    status = Status.REFUSED
            case Verb.SETTLE | Verb.RENEW if hold is None:
                status = Status.UNKNOWN
            case Verb.SETTLE:
                self._settle(identity, operation, policy, buckets, now_us)
                changed = True
            case Verb.RENEW if hold is not None:
                expire_us = hold.expire_us = now_us + operation.time_to_live_us
                self._ends_at(expire_us, identity)
                changed = True
        if changed:
            for old, new in zip(stored, buckets, strict=True):
                old.at_us, old.used, old.held = new.at_us, new.used, new.held
            self._set_idle(policy, now_us)
        levels = [bucket.used + bucket.held for bucket in buckets]
        return Outcome(status, refused, retry_us, expire_us, now_us, levels)

    def _bucket(self, rule: Rule, now_us: int) -> Bucket:
        bucket = self._buckets.get(rule.name)
        if bucket is None:
            bucket = self._buckets[rule.name] = Bucket(now_us)
        return bucket

    def _expire(self, policy: Policy, now_us: int) -> bool:
        """Charge reservations whose end has passed, as of their end; say whether there were any."""
        over = False
        rates = {rule.name: rule.rate_per_s for rule in policy.rules}
        while self._ends and self._ends[0][0] <= now_us:
            end_us, key = heappop(self._ends)
            if self._marks.get(key) == end_us:
                del self._marks[key]
            hold = self._holds.get(key)
            if hold is None or hold.expire_us != end_us:
                continue
            over = True
            for name, amount in self._holds.pop(key).amounts.items():
                bucket = self._buckets[name]
                if name in rates:
                    bucket.advance(end_us, rates[name])
                bucket.held = max(0, bucket.held - amount)
                bucket.used = min(bucket.used + amount, CEILING_MICRO)
        return over

    def _ends_at(self, end_us: int, key: tuple[str, bytes]) -> None:
        heappush(self._ends, (end_us, key))
        self._last_us = max(self._last_us, end_us)

    def _reserve(
        self,
        identity: tuple[str, bytes],
        operation: Operation,
        policy: Policy,
        buckets: list[Bucket],
        expire_us: int,
    ) -> None:
        hold = Hold(expire_us, {})
        for rule, bucket, amount in zip(policy.rules, buckets, operation.amounts, strict=True):
            if not rule.unit.held:
                bucket.used += amount
            elif amount:
                bucket.held += amount
                hold.amounts[rule.name] = amount
        self._holds[identity] = hold
        self._ends_at(expire_us, identity)

    def _settle(
        self,
        identity: tuple[str, bytes],
        operation: Operation,
        policy: Policy,
        buckets: list[Bucket],
        now_us: int,
    ) -> None:
        named = {rule.name: bucket for rule, bucket in zip(policy.rules, buckets, strict=True)}
        for name, amount in self._holds.pop(identity).amounts.items():
            bucket = named.get(name) or self._buckets[name]
            bucket.held = max(0, bucket.held - amount)
        for rule, bucket, amount in zip(policy.rules, buckets, operation.amounts, strict=True):
            if rule.unit.held:
                bucket.used = min(bucket.used + amount, CEILING_MICRO)
        self._marks[identity] = now_us + MARK_US
        self._ends_at(now_us + MARK_US, identity)

    def _set_idle(self, policy: Policy, now_us: int) -> None:
        drain_us = 0
        for rule in policy.rules:
            bucket = self._buckets[rule.name]
            drain_us = max(drain_us, math.ceil((bucket.used + bucket.held) / rule.rate_per_s))
        self.idle_at_us = max(self._last_us, now_us) + drain_us


def _refusal(policy: Policy, buckets: list[Bucket], amounts: Sequence[int]) -> tuple[int, int]:
    """Return the rule that refuses longest and for how long; -1 when none does, -1 for ever."""
    refused, retry_us = -1, 0
    asked = zip(policy.rules, buckets, amounts, strict=True)
    for index, (rule, bucket, amount) in enumerate(asked):
        excess = bucket.used + bucket.held + amount - rule.burst_micro
        if excess <= 0:
            continue
        if amount > rule.burst_micro:
            return index, -1
        wait_us = math.ceil(excess / rule.rate_per_s)
        if wait_us > retry_us:
            refused, retry_us = index, wait_us
    return refused, retry_us
