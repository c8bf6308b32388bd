"""What the limiter needs: a store of accounts, and somebody to tell about its state.

Both stores, the shared one and the one in memory, do one thing: apply operations to accounts, each
atomically. One contract suite holds them to the same answers.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.common.valkey import StoreUnavailable as StoreUnavailable  # noqa: PLC0414 - a word of this port
from services.ratelimit.own_limits import OwnLimits
from services.ratelimit.rule import RuleSet


class Verb(enum.Enum):
    """What an operation does to an account."""

    RESERVE = "reserve"
    """Take the bound of a call, or refuse."""
    PREPARE = "prepare"
    """As `RESERVE`, but hold what that would charge, until `COMMIT` or `RELEASE`."""
    COMMIT = "commit"
    """Charge what was prepared: every account of the call agreed."""
    RELEASE = "release"
    """Forget a reservation as if it had never been: another account of the call refused."""
    SETTLE = "settle"
    RENEW = "renew"
    PEEK = "peek"
    CHARGE = "charge"
    """Take an amount at once, without a reservation, or refuse."""


class Status(enum.IntEnum):
    """How an operation ended."""

    REFUSED = 0
    """A rule has too little left; nothing was charged."""
    DONE = 1
    REPEATED = 2
    """The reservation was made before; nothing was charged again."""
    UNKNOWN = 3
    """There is no such live reservation of this caller."""


class Caller(msgspec.Struct, frozen=True):
    """Whose limits apply, and which peer asks; reservations belong to the pair.

    `limits` are those that the caller brings along; None for those of the policy.
    """

    tenant: str
    issuer: str
    subject: str
    peer: str
    roles: tuple[str, ...] = ()
    limits: OwnLimits | None = None


class Operation(msgspec.Struct, frozen=True):
    """One thing to do to one account.

    Attributes:
        verb: what to do.
        account: the account's opaque name.
        identity: peer and id of the reservation, with a `:`; empty for `PEEK` and `CHARGE`.
        rules: the account's rules.
        amounts: for each rule, in its parts: the bound of a reservation, the real usage of a
            settlement; zeros otherwise.
        time_to_live_us: of the reservation, for those that make or renew one.
        marked: whether the account remembers that the reservation was settled.
    """

    verb: Verb
    account: bytes
    identity: bytes
    rules: RuleSet
    amounts: Sequence[int]
    time_to_live_us: int = 0
    marked: bool = True


class Outcome(msgspec.Struct, frozen=True):
    """What an operation did.

    Attributes:
        status: how it ended.
        refused: the index of the rule that refused; -1 when none did.
        retry_us: until that rule would admit the same; -1 when it never will.
        expire_us: the end of the reservation in the store's time; 0 without one.
        now_us: the store's time.
        shadows: a bit for each rule in shadow mode that would have refused.
        used: for each rule, in parts, what is charged and held now.
        details: for each rule, in parts: what is held, after `PEEK`; what was used beyond the
            bound, after `SETTLE`; else empty.
    """

    status: Status
    refused: int
    retry_us: int
    expire_us: int
    now_us: int
    shadows: int
    used: Sequence[int]
    details: Sequence[int] = ()


class Store(Protocol):
    """Applies operations to accounts."""

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Apply operations in order, each atomically, and return what each did.

        Raises:
            StoreUnavailable: it cannot be asked now.
        """
        ...


class Observer(Protocol):
    """Counts what the limiter decides."""

    def decided(self, *, admitted: bool, rule: str, source: str) -> None:
        """Take note of a decision; `rule` is the one that refused, or empty."""
        ...

    def shadow_refused(self, rule: str) -> None:
        """Take note that a rule in shadow mode would have refused."""
        ...

    def used_beyond_bound(self, unit: str, amount: int) -> None:
        """Take note of what was used beyond its bound, and charged."""
        ...

    def store_answered(self, seconds: float) -> None:
        """Take note of how long the store took for one batch."""
        ...
