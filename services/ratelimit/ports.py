"""What the limiter needs: a store of accounts, and somebody to tell about its state.

Both stores, the shared one and the one in memory, do one thing: apply operations to callers'
accounts, each atomically. One contract suite holds them to the same answers.
"""

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.ratelimit.policy import Policy


class StoreUnavailable(Exception):  # noqa: N818 - a state, like the error it leads to
    """The store cannot be asked now; whether the operations were applied is not known."""


class Verb(enum.Enum):
    """What an operation does to an account."""

    RESERVE = "reserve"
    SETTLE = "settle"
    RENEW = "renew"
    PEEK = "peek"


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
    """Whose account it is, and which peer asks; reservations belong to the pair."""

    tenant: str
    issuer: str
    subject: str
    peer: str


class Operation(msgspec.Struct, frozen=True):
    """One thing to do to one account.

    Attributes:
        verb: what to do.
        caller: whose account.
        amounts: for each rule of the policy, in micro-units: the bound of a reservation, the real
            usage of a settlement; zeros otherwise.
        reservation_id: 16 bytes; empty for `PEEK`.
        time_to_live_us: of the reservation, for `RESERVE` and `RENEW`.
    """

    verb: Verb
    caller: Caller
    amounts: Sequence[int]
    reservation_id: bytes = b""
    time_to_live_us: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What an operation did.

    Attributes:
        status: how it ended.
        refused: the index of the rule that refused; -1 when none did.
        retry_us: until that rule would admit the same; -1 when it never will.
        expire_us: the end of the reservation in the store's time; 0 without one.
        now_us: the store's time.
        used: for each rule, in micro-units, what is charged and held now.
    """

    status: Status
    refused: int
    retry_us: int
    expire_us: int
    now_us: int
    used: Sequence[int]


class Store(Protocol):
    """Applies operations to accounts."""

    async def apply(self, operations: Sequence[Operation], policy: Policy) -> Sequence[Outcome]:
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

    def store_answered(self, seconds: float) -> None:
        """Take note of how long the store took for one batch."""
        ...
