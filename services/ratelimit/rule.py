"""Rules: what is counted, how fast it comes back, how much may be used at once.

A rule is a value. It is handed to the store with every decision, so a changed limit applies to the
next one, also for a caller that is in debt. Stores count in whole *parts*: millionths of a request
or of a token where a bucket refills slowly, else whole units.
"""

import enum
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Literal

import msgspec

MICRO = 1_000_000
MAX_AMOUNT = 1_000_000_000
"""The largest limit in requests or tokens; in millionths still exact in a Lua number (2^53)."""
MAX_COST = 1_000_000_000_000_000
"""The largest limit in cost micros."""
DAY_S = 86_400
EVER_US = 1_000_000_000_000_000
"""Thirty years: no wait is told to be longer, and no key lives longer without being used."""
PERIODS_S = {"second": 1, "minute": 60, "hour": 3600, "day": DAY_S, "month": 30 * DAY_S}

Period = Literal["", "day", "month"]


class Unit(enum.Enum):
    """What a rule counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    COST = "cost_micros"
    CONCURRENCY = "concurrency"


class Scope(enum.Enum):
    """Whose calls a rule counts together."""

    PRINCIPAL = "principal"
    TENANT = "tenant"
    ROLE = "role"
    MODEL = "model"
    GLOBAL = "global"


class Mode(enum.IntFlag):
    """How an amount is taken, as stores are told."""

    CHARGED = 0
    """Charged when reserved."""
    HELD = 1
    """Held when reserved; the real usage is charged when settled."""
    SLOT = 2
    """Held when reserved, given back when settled or expired, never charged."""
    SHADOW = 4
    """Counts and never refuses; added to one of the others."""


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which calls a rule is for: one of each list that is not empty; `*` stands for any text."""

    tenants: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @property
    def everyone(self) -> bool:
        """Whether it holds for every call."""
        return not (self.tenants or self.subjects or self.roles or self.models)


class Rule(msgspec.Struct, frozen=True, dict=True):
    """One limit.

    Attributes:
        name: lower-case letters, digits and `_`. Of rules with one name the first that matches a
            call applies to it.
        unit: what is counted.
        rate_per_s: units that come back per second; 0 where `period` or the unit says otherwise.
        burst: the size of the bucket, of the budget, or how many at once; at least 1.
        period: the calendar window (UTC) after which a budget is whole again; empty for a bucket.
        scope: whose calls are counted together.
        match: which calls it is for.
        shadow: counts and never refuses.
        unlimited: lets what matches pass, so that no later rule of this name applies.
    """

    name: str
    unit: Unit
    rate_per_s: float
    burst: int
    period: Period = ""
    scope: Scope = Scope.PRINCIPAL
    match: Match = Match()
    shadow: bool = False
    unlimited: bool = False

    @cached_property
    def scale(self) -> int:
        """Parts in a unit: fine where a bucket would lose something to rounding."""
        fine = not self.period and self.unit in {Unit.REQUESTS, Unit.TOKENS}
        return MICRO if fine else 1

    @cached_property
    def field(self) -> str:
        """Name of the level in an account: another unit or window is another level."""
        if self.unit is Unit.REQUESTS and not self.period:
            return self.name
        return f"{self.name}.{self.unit.value[:2]}{self.period[:1]}"

    @cached_property
    def limit_parts(self) -> int:
        """The burst as stores count it."""
        return self.burst * self.scale

    @cached_property
    def rate_parts(self) -> float:
        """Parts that come back per microsecond."""
        return self.rate_per_s if self.scale == MICRO else self.rate_per_s / MICRO

    @cached_property
    def mode(self) -> Mode:
        """How stores take an amount."""
        mode = Mode.HELD
        if self.unit is Unit.REQUESTS:
            mode = Mode.CHARGED
        elif self.unit is Unit.CONCURRENCY:
            mode = Mode.SLOT
        return mode | Mode.SHADOW if self.shadow else mode

    @cached_property
    def window_s(self) -> float:
        """How long an empty bucket takes to fill, or a budget lasts; 0 for requests in flight."""
        if self.period:
            return DAY_S if self.period == "day" else 30 * DAY_S
        return self.burst / self.rate_per_s if self.rate_per_s else 0.0

    @cached_property
    def descriptions(self) -> dict[tuple[str, int | None], bytes]:
        """What a servicer keeps of how it describes the rule."""
        return {}

    def share(self, replicas: int) -> "Rule":
        """Return one replica's part of the rule; the burst stays at least 1."""
        return msgspec.structs.replace(
            self, rate_per_s=self.rate_per_s / replicas, burst=max(1, self.burst // replicas)
        )

    def matches(self, tenant: str, subject: str, roles: tuple[str, ...], model: str | None) -> bool:
        """Say whether the rule is for a call; no model (None) fits rules of every model."""
        match = self.match
        return (
            _among(match.tenants, (tenant,))
            and _among(match.subjects, (subject,))
            and _among(match.roles, roles)
            and (model is None or _among(match.models, (model,)))
        )


class RuleSet(msgspec.Struct, frozen=True, dict=True):
    """The rules of one account, in the order in which they are checked."""

    rules: tuple[Rule, ...]

    def amounts(
        self, requests: int = 0, tokens: int = 0, cost_micros: int = 0, slots: int = 0
    ) -> list[int]:
        """Return what a call asks of each rule, in parts."""
        asked = (requests, tokens, cost_micros, slots)
        return [asked[unit] * scale for unit, scale in self._parts]

    @cached_property
    def _parts(self) -> list[tuple[int, int]]:
        units = (Unit.REQUESTS, Unit.TOKENS, Unit.COST, Unit.CONCURRENCY)
        return [(units.index(rule.unit), rule.scale) for rule in self.rules]

    @cached_property
    def nothing(self) -> list[int]:
        """An amount of 0 for each rule."""
        return [0] * len(self.rules)

    @cached_property
    def prepares(self) -> bool:
        """Whether a call of several accounts has something to commit here."""
        return any(not rule.mode & (Mode.HELD | Mode.SLOT) for rule in self.rules)

    def share(self, replicas: int) -> "RuleSet":
        """Return one replica's part of each rule."""
        return RuleSet(tuple(rule.share(replicas) for rule in self.rules))

    @cached_property
    def arguments(self) -> tuple[tuple[str | int, ...], ...]:
        """What a store's script is told of each rule: field, refill, limit, mode."""
        return tuple(
            (rule.field, rule.period or repr(rule.rate_parts), rule.limit_parts, int(rule.mode))
            for rule in self.rules
        )


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> str:
    """Return a pattern in which `*` alone is special, also to `fnmatch`."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _among(patterns: tuple[str, ...], values: tuple[str, ...]) -> bool:
    """Say whether any value fits any pattern; no patterns means no condition."""
    return not patterns or any(
        fnmatchcase(value, _glob(pattern)) for value in values for pattern in patterns
    )
