"""How many calls are at a target at once, and who waits for a place.

A place is free or there is a short queue; a full queue, or too long a wait, refuses. Places go to
those who waited longest.
"""

import asyncio
from collections import deque

import msgspec


class GatePolicy(msgspec.Struct, frozen=True):
    """How many, and how long they wait.

    Args:
        in_flight: calls at once.
        queue: calls that may wait for a place.
        wait_s: how long they may.
    """

    in_flight: int = 1_000
    queue: int = 100
    wait_s: float = 1.0


class GateFullError(Exception):
    """There was no place in time."""


class Gate:
    """The places at one target.

    Args:
        policy: how many.
    """

    def __init__(self, policy: GatePolicy | None = None) -> None:
        """Begin empty."""
        self.policy = policy or GatePolicy()
        self.in_flight = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether another call would be refused at once."""
        policy = self.policy
        return self.in_flight >= policy.in_flight and len(self._queue) >= policy.queue

    def try_enter(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.in_flight < self.policy.in_flight and not self._queue:
            self.in_flight += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a place, waiting a little for it; give it back with `leave`.

        Raises:
            GateFullError: there was none in time.
        """
        if self.try_enter():
            return
        if self.full:
            raise GateFullError
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self.policy.wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave()
            else:
                self._forget(turn)
            if isinstance(error, TimeoutError):
                raise GateFullError from None
            raise

    def leave(self) -> None:
        """Give a place back: to the first who waits, else to anyone."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1

    def _forget(self, turn: asyncio.Future[None]) -> None:
        if turn in self._queue:
            self._queue.remove(turn)
