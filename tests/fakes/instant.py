"""An event loop whose clock jumps: sleeping costs no time, and time-outs are exact.

It is for code without sockets: whenever nothing is left to do but wait, the clock goes on to the
next timer.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class _Selector(selectors.SelectSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            msg = "Everything waits for something that will never happen."
            raise RuntimeError(msg)
        self.now += max(0.0, timeout)
        return super().select(0)


class InstantLoop(asyncio.SelectorEventLoop):
    """The event loop."""

    def __init__(self) -> None:
        """Start at an arbitrary time."""
        self._jumping = _Selector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the loop's own time, in seconds."""
        return self._jumping.now


class LoopClock:
    """The running loop's time as a clock."""

    def time(self) -> float:
        """Return a wall clock that goes with the loop."""
        return 1_800_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run something to its end in a loop of its own."""
    with asyncio.Runner(loop_factory=InstantLoop) as runner:
        return runner.run(main)
