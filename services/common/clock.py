"""Time, as something that is handed in, so that tests can turn it."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the core needs to know of time."""

    def time(self) -> float:
        """Return the wall clock, in Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Return a clock that never goes back, in seconds from an arbitrary start."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def time(self) -> float:
        """Return the wall clock, in Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return the monotonic clock, in seconds."""
        return time.monotonic()
