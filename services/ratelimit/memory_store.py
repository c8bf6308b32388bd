"""Accounts in this process: for one replica alone, and for when the shared store is down.

It forgets idle accounts, and beyond its size the account that was used longest ago.
"""

from collections import OrderedDict
from collections.abc import Sequence

from services.common.clock import Clock
from services.ratelimit.account import Account
from services.ratelimit.ports import Operation, Outcome


class MemoryStore:
    """Applies operations to accounts in memory.

    Args:
        clock: the store's time is the wall clock's at the start, and the monotonic one's from then
            on, so that it knows the date and is never set back.
        max_accounts: accounts in memory at most.
    """

    def __init__(self, clock: Clock, *, max_accounts: int = 100_000) -> None:
        """See the class."""
        self._clock = clock
        self._epoch = clock.time() - clock.monotonic()
        self._max_accounts = max_accounts
        self._accounts: OrderedDict[bytes, Account] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of accounts in memory."""
        return len(self._accounts)

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Apply operations in order; never unavailable."""
        now_us = int((self._epoch + self._clock.monotonic()) * 1_000_000)
        return [self._apply(operation, now_us) for operation in operations]

    def _apply(self, operation: Operation, now_us: int) -> Outcome:
        key = operation.account
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = Account()
        self._accounts.move_to_end(key)
        outcome = account.apply(operation, now_us)
        self._forget(now_us)
        return outcome

    def _forget(self, now_us: int) -> None:
        """Drop what is idle at the old end, and what is too much."""
        while self._accounts:
            oldest = next(iter(self._accounts))
            idle = self._accounts[oldest].idle_at_us <= now_us
            if not idle and len(self._accounts) <= self._max_accounts:
                return
            del self._accounts[oldest]
