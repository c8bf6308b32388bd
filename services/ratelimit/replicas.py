"""How many limiters share the limits, as they counted each other in the store.

A store that has lost its data counts one, then two, until all have been heard again. Just then it
may go away for good, so the largest count of the last seconds holds.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from services.common.clock import Clock

REMEMBERED_S: Final = 10.0


class Recent:
    """Passes on the largest count of the last seconds.

    Args:
        tell: takes it.
        clock: its monotonic clock.
    """

    def __init__(self, tell: Callable[[int], None], clock: Clock) -> None:
        """See the class."""
        self._tell = tell
        self._clock = clock
        self._counts: deque[tuple[float, int]] = deque()

    def counted(self, count: int) -> None:
        """Take note of a count."""
        now = self._clock.monotonic()
        while self._counts and (
            self._counts[-1][1] <= count or now - self._counts[0][0] > REMEMBERED_S
        ):
            if self._counts[-1][1] <= count:
                self._counts.pop()
            else:
                self._counts.popleft()
        self._counts.append((now, count))
        self._tell(self._counts[0][1])
