"""How the gateway's neighbours are, watched in the background.

Each neighbour is asked once a second what it says of itself and of its own dependencies. A
neighbour that does not answer is down; asking has a deadline, so a hanging one is too.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import WeaverError

INTERVAL_S = 1.0


class Neighbour(Protocol):
    """A service that says how it is."""

    async def states(self) -> Mapping[str, bool]:
        """Return whether the service (empty name) and its dependencies serve.

        Raises:
            WeaverError: it does not answer.
        """
        ...


class Observer(Protocol):
    """Is told of changes."""

    def changed(self, name: str, *, up: bool) -> None:
        """Take note that a dependency came up or went down."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """How a dependency is, and since when, in Unix seconds."""

    up: bool
    since: float


class Dependencies:
    """Watches the neighbours.

    Args:
        neighbours: by name.
        observer: is told of changes.
        clock: for `since`.
        optional: the neighbours that a call can do without.
    """

    def __init__(
        self,
        neighbours: Mapping[str, Neighbour],
        observer: Observer,
        clock: Clock,
        optional: frozenset[str] = frozenset(),
    ) -> None:
        """See the class."""
        self._optional = optional
        self._neighbours = neighbours
        self._observer = observer
        self._clock = clock
        self._states: dict[str, State] = {}

    def snapshot(self) -> dict[str, State]:
        """Return each neighbour, and below it each of its dependencies (`ratelimit.store`)."""
        return {
            name: self._states.get(name, State(up=False, since=self._clock.time()))
            for name in sorted({*self._neighbours, *self._states})
        }

    @property
    def ready(self) -> bool:
        """Whether every neighbour that is needed serves."""
        needed = (name for name in self._neighbours if name not in self._optional)
        return all(name in self._states and self._states[name].up for name in needed)

    @property
    def degraded(self) -> bool:
        """Whether something is down."""
        return any(not state.up for state in self.snapshot().values())

    async def watch(self) -> None:
        """Ask all neighbours, again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(INTERVAL_S)

    async def look(self) -> None:
        """Ask all neighbours once."""
        await asyncio.gather(*(self._look_at(name) for name in self._neighbours))

    async def _look_at(self, name: str) -> None:
        states: Mapping[str, bool] = {"": False}
        with contextlib.suppress(WeaverError):
            states = await self._neighbours[name].states()
        for part, up in states.items():
            self._note(f"{name}.{part}" if part else name, up=up)

    def _note(self, name: str, *, up: bool) -> None:
        known = self._states.get(name)
        if known is None or known.up != up:
            self._states[name] = State(up, self._clock.time())
            if known is not None or not up:
                self._observer.changed(name, up=up)
