"""Rules: what is counted, how fast it comes back, how much may be used at once.

A policy is a value. It is handed to the store with every decision, so a changed limit applies to
the next one, also for a caller that is in debt.
"""

import enum
import hashlib
from collections.abc import Iterable
from functools import cached_property

import msgspec

MICRO = 1_000_000
"""Stores count in millionths of a unit, so that slow rates lose nothing to rounding."""

MAX_AMOUNT = 1_000_000_000
"""The largest burst of a rule, in units; counts stay exact in a Lua number (below 2^53)."""


class Unit(enum.Enum):
    """What a rule counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"

    @property
    def held(self) -> bool:
        """Whether a reservation holds its bound until settled, instead of being charged at once."""
        return self is Unit.TOKENS


class Rule(msgspec.Struct, frozen=True, dict=True):
    """One token bucket.

    Attributes:
        name: unique in a policy; lower-case letters, digits and `_`.
        unit: what is counted.
        rate_per_s: units that come back per second, above 0.
        burst: units that can be used at once, at least 1.
    """

    name: str
    unit: Unit
    rate_per_s: float
    burst: int

    @cached_property
    def burst_micro(self) -> int:
        """The burst as stores count it."""
        return self.burst * MICRO

    @cached_property
    def window_s(self) -> float:
        """How long an empty bucket takes to fill."""
        return self.burst / self.rate_per_s

    def share(self, replicas: int) -> "Rule":
        """Return one replica's part of the rule; the burst stays at least 1."""
        return Rule(
            self.name, self.unit, self.rate_per_s / replicas, max(1, self.burst // replicas)
        )


class Policy(msgspec.Struct, frozen=True, dict=True):
    """The rules that apply to every caller.

    Attributes:
        rules: in the order in which they are checked.
        version: names the content, for records and answers.
    """

    rules: tuple[Rule, ...]
    version: str

    @classmethod
    def of(cls, rules: Iterable[Rule]) -> "Policy":
        """Return the policy of some rules, with the version that its content gives it."""
        chosen = tuple(rules)
        text = msgspec.json.encode(chosen)
        return cls(chosen, hashlib.sha256(text).hexdigest()[:12])

    @classmethod
    def from_limits(cls, *, rps: float, burst: int, tokens_per_minute: int = 0) -> "Policy":
        """Return the policy of the environment's limits; 0 tokens per minute means no such rule."""
        rules = [Rule("requests", Unit.REQUESTS, rps, burst)]
        if tokens_per_minute:
            rate = tokens_per_minute / 60
            rules.append(Rule("tokens_per_minute", Unit.TOKENS, rate, tokens_per_minute))
        return cls.of(rules)

    def share(self, replicas: int) -> "Policy":
        """Return one replica's part, for when replicas cannot see each other."""
        return Policy(tuple(rule.share(replicas) for rule in self.rules), self.version)

    def amounts(self, *, requests: int = 0, tokens: int = 0) -> list[int]:
        """Return what a call asks of each rule, in micro-units."""
        return [(requests if rule.unit is Unit.REQUESTS else tokens) * MICRO for rule in self.rules]
