"""What was found out lately, bounded: the longest unused goes first, about half at a time."""

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Remembers at most `most` values, none of them None.

    Two generations: what is asked for is among the young; when they are half of `most`, they become
    the old ones, and the old ones that nobody asked for are gone. So remembering and finding cost a
    dictionary's time, whatever is remembered.
    """

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, most: int) -> None:
        """See the class."""
        self._half = max(1, most // 2)
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def __len__(self) -> int:
        """Return how much is remembered."""
        return len(self._young) + len(self._old)

    def get(self, key: Key) -> Value | None:
        """Return what is remembered, None if nothing is."""
        value = self._young.get(key)
        if value is None:
            value = self._old.pop(key, None)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Remember something."""
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def forget(self, which: Callable[[Value], bool]) -> None:
        """Forget everything of which this is true."""
        self._young = {key: value for key, value in self._young.items() if not which(value)}
        self._old = {key: value for key, value in self._old.items() if not which(value)}
