"""Sets of sequence numbers, which mostly follow each other: a few intervals say it all."""

from bisect import bisect_right
from collections.abc import Iterable


class Intervals:
    """A set of whole numbers, kept as the intervals that they fill.

    Args:
        pairs: first and last of each interval, in order, one number after the other.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, pairs: Iterable[int] = ()) -> None:
        """See the class."""
        flat = list(pairs)
        self._starts = flat[::2]
        self._ends = flat[1::2]

    def __len__(self) -> int:
        """Return how many intervals there are."""
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        """Say whether a number is in the set."""
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number <= self._ends[place]

    @property
    def pairs(self) -> list[int]:
        """First and last of each interval, in order, one number after the other."""
        return [bound for pair in zip(self._starts, self._ends, strict=True) for bound in pair]

    def add(self, number: int) -> None:
        """Add a number; cheap when it follows the last."""
        starts, ends = self._starts, self._ends
        if ends and number == ends[-1] + 1:
            ends[-1] = number
            return
        place = bisect_right(starts, number)
        if place and number <= ends[place - 1]:
            return
        joins_left = place > 0 and ends[place - 1] == number - 1
        joins_right = place < len(starts) and starts[place] == number + 1
        if joins_left and joins_right:
            ends[place - 1] = ends.pop(place)
            del starts[place]
        elif joins_left:
            ends[place - 1] = number
        elif joins_right:
            starts[place] = number
        else:
            starts.insert(place, number)
            ends.insert(place, number)

    def close_lowest_gap(self) -> None:
        """Take the numbers between the first two intervals as seen."""
        del self._starts[1], self._ends[0]
