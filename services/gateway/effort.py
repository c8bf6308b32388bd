"""How much of a body may be looked at closely, so that no body takes a processor for itself.

The scan is linear and fast, but what it finds is checked piece by piece. A body that is made of
candidates would keep a thread busy for seconds that nobody can take back; so each piece costs, and
when all is spent the search ends with an error. Nothing passes unsearched.
"""

from typing import Final

from services.common.errors import InvalidArgument

MOST_CHECKS: Final = 100_000
BYTES_PER_CHECK: Final = 32
"""A long candidate counts for as many as it could hold."""
MOST_KNOWN: Final = 4096


Spans = tuple[tuple[str, int, int], ...]
"""What a candidate holds, and where, counted from its beginning."""


class TooMuchToCheck(InvalidArgument):
    """There is more to check than one request may ask for.

    Args:
        most: what is allowed.
    """

    def __init__(self, most: int) -> None:
        """See the class."""
        super().__init__(
            f"The body holds more numbers, addresses and the like than can be checked for personal "
            f"data in one request ({most} checks are allowed); send it in parts.",
            reason="CONTENT_UNSEARCHABLE",
        )


class GivenUp(Exception):  # noqa: N818 - nobody's fault
    """Nobody waits for the search any more."""


class Effort:
    """What is left to spend on one body, and what was found out already.

    Args:
        most: how many checks are allowed.
    """

    __slots__ = ("_left", "_most", "_stopped", "known")

    def __init__(self, most: int) -> None:
        """See the class."""
        self._most = most
        self._left = most
        self._stopped = False
        self.known: dict[tuple[bytes, bool, int], Spans | None] = {}

    def spend(self, size: int) -> None:
        """Pay for one candidate of so many bytes, before it is checked.

        Raises:
            TooMuchToCheck: nothing is left.
            GivenUp: the search was stopped.
        """
        self._left -= 1 + size // BYTES_PER_CHECK
        if self._left < 0:
            raise TooMuchToCheck(self._most)
        if self._stopped:
            raise GivenUp

    def stop(self) -> None:
        """End the search at its next candidate, from any thread."""
        self._stopped = True
