"""Settlements that the store is owed: calls that ended while it was down.

Without them a slot stays taken, and a bound charged, until the reservation ends by itself. All of
them wait: a store that hung may carry out, once it goes on, a reservation that was decided here
meanwhile. Telling it twice, or of a reservation that it never had, changes nothing.
"""

from itertools import islice
from typing import Final

from services.ratelimit.decision import beyond_bound
from services.ratelimit.plan import Settlement, settling
from services.ratelimit.policy import Policy
from services.ratelimit.ports import Observer, Status, Store, StoreUnavailable

MOST_OWED: Final = 20_000
AT_ONCE: Final = 200
"""So many leave together, so that decisions wait no longer for them than for a batch."""


class Owed:
    """Keeps settlements for the store, the oldest first.

    Attributes:
        paying: whether the store is being told.

    Args:
        store: what is owed to.
        observer: counts what was used beyond its bound.
        most: how many at most; beyond that none is taken, since the store is likelier to hold the
            reservations of the old ones.
    """

    def __init__(self, store: Store, observer: Observer, most: int = MOST_OWED) -> None:
        """See the class."""
        self.paying = False
        self._store = store
        self._observer = observer
        self._most = most
        self._waiting: dict[tuple[str, bytes, str, str, str], Settlement] = {}

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, item: Settlement) -> None:
        """Keep a settlement; the first word about a reservation counts."""
        caller = item.caller
        name = (caller.peer, item.id, caller.tenant, caller.issuer, caller.subject)
        if len(self._waiting) < self._most:
            self._waiting.setdefault(name, item)

    async def pay(self, policy: Policy) -> None:
        """Tell the store of everything, in order, until it is gone again."""
        self.paying = True
        try:
            while self._waiting:
                await self._tell(policy)
        except StoreUnavailable:
            return
        finally:
            self.paying = False

    async def _tell(self, policy: Policy) -> None:
        """Tell the store of the oldest, and keep them no more once it has answered."""
        named = list(islice(self._waiting.items(), AT_ONCE))
        calls = [settling(policy, item) for _, item in named]
        outcomes = iter(await self._store.apply([one for call in calls for one in call.operations]))
        for (name, _), call in zip(named, calls, strict=True):
            self._waiting.pop(name, None)
            of_call = list(islice(outcomes, len(call.groups)))
            if of_call[-1].status is Status.DONE:
                for unit, amount in beyond_bound(call.groups, of_call).items():
                    self._observer.used_beyond_bound(unit.value, amount)
