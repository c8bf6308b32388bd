"""Time-outs that cost next to nothing while they are not needed.

`asyncio.timeout` makes a timer for each block and takes it back again: five microseconds, several
times a request, for something that hardly ever happens. Here all blocks that end in the same
hundredth of a second share one timer, so a block may end so much late, and never early.
"""

import asyncio
from types import TracebackType
from typing import Final, Self

GRAIN_S: Final = 0.01
"""How late a block may be ended."""

_Due = dict[int, "set[deadline]"]
_newest: tuple[asyncio.AbstractEventLoop | None, _Due] = (None, {})
"""The blocks of the loop that asked last; those of others are known to their timers alone."""


class deadline:  # noqa: N801 - used like a function
    """Cancels a block at a moment and raises `TimeoutError` instead, as `asyncio.timeout_at` does.

    Args:
        end: on the loop's clock, in seconds; None for never.
    """

    __slots__ = ("_bucket", "_cancelling", "_end", "_task", "expired")

    def __init__(self, end: float | None) -> None:
        """See the class."""
        self._end = end
        self._bucket: set[deadline] | None = None
        self.expired = False

    def __enter__(self) -> Self:
        """Begin to count."""
        if self._end is not None:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine of an event loop runs in one
            self._task = task
            self._cancelling = task.cancelling()
            self._bucket = _bucket(task.get_loop(), self._end)
            self._bucket.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count no more; a cancellation that came from here becomes a `TimeoutError`."""
        if self._bucket is not None:
            self._bucket.discard(self)
            if (
                self.expired
                and self._task.uncancel() <= self._cancelling
                and kind is asyncio.CancelledError
            ):
                raise TimeoutError from error

    def expire(self) -> None:
        """End the block."""
        self.expired = True
        self._task.cancel()


def deadline_in(seconds: float | None) -> deadline:
    """Return a deadline so far from now; None for never."""
    if seconds is None:
        return deadline(None)
    return deadline(asyncio.get_running_loop().time() + seconds)


def _bucket(loop: asyncio.AbstractEventLoop, end: float) -> "set[deadline]":
    global _newest  # noqa: PLW0603 - one loop a process, but for tests
    known, due = _newest
    if known is not loop:
        due = {}
        _newest = loop, due
    number = int(end / GRAIN_S) + 1
    bucket = due.get(number)
    if bucket is None:
        bucket = due[number] = set()
        loop.call_at(number * GRAIN_S, _expire, due, number)
    return bucket


def _expire(due: _Due, number: int) -> None:
    for one in due.pop(number):
        one.expire()
