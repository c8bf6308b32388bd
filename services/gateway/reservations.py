"""The reservations of calls that are under way, kept alive while somebody holds them.

Whether a call streams or not, and however long its provider says nothing, its reservation outlives
it. One that nobody holds any more is let go: should a call ever end without settling, its slot
comes back when its time to live is over.
"""

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from services.gateway.ports import Admission
from services.gateway.principal import Principal

RENEWALS_IN_A_LIFE: Final = 3
"""A reservation is renewed after a third of its time to live, so two renewals may fail."""


class Live(msgspec.Struct, frozen=True):
    """One reservation to be renewed."""

    reservation_id: bytes
    principal: Principal
    model: str


class _Held(msgspec.Struct, frozen=True):
    principal: Principal
    admission: "weakref.ref[Admission]"
    renew_at: float


class Reservations:
    """Knows what is held, and asks for renewals when they are due.

    It costs a call one entry in a dictionary; there is one timer for all of them, and none while
    nothing is held.

    Args:
        renew: renews reservations in the background.
        time_to_live_s: how long a reservation lives without being renewed.
    """

    def __init__(self, renew: Callable[[Sequence[Live]], None], time_to_live_s: float) -> None:
        """See the class."""
        self._renew = renew
        self.every_s = time_to_live_s / RENEWALS_IN_A_LIFE
        # In the order in which they are due: who is renewed goes to the end.
        self._held: dict[bytes, _Held] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, reservation_id: bytes) -> bool:
        """Tell whether a reservation is held."""
        held = self._held.get(reservation_id)
        return held is not None and held.admission() is not None

    def hold(self, principal: Principal, admission: Admission) -> None:
        """Keep a reservation alive from now on."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self.every_s
        self._held[admission.reservation_id] = _Held(principal, weakref.ref(admission), due)
        if self._timer is None:
            self._timer = loop.call_at(due, self._look)

    def let_go(self, reservation_id: bytes) -> None:
        """Renew a reservation no more."""
        self._held.pop(reservation_id, None)

    def close(self) -> None:
        """Renew nothing any more."""
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Renew what is due and wait for what is due next."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due: list[Live] = []
        while self._held:
            reservation_id, held = next(iter(self._held.items()))
            if held.renew_at > now:
                break
            del self._held[reservation_id]
            admission = held.admission()
            if admission is not None:
                due.append(Live(reservation_id, held.principal, admission.model))
                again = _Held(held.principal, held.admission, now + self.every_s)
                self._held[reservation_id] = again
        self._timer = None
        if self._held:
            first = next(iter(self._held.values())).renew_at
            self._timer = loop.call_at(first, self._look)
        if due:
            self._renew(due)
