"""What was seen of keys: the newest version of each, from which there is no way back.

The latest that were read are kept whole, so that a store that has lost changes can be given them
back. Of those that are forgotten to make room, the versions of changed ones are kept.
"""

from collections.abc import Callable, Sequence
from typing import Final

from services.gateway.apikeys.key import ApiKey
from services.gateway.apikeys.ports import KeysUnavailable, KeyUnreadable

MOST_FLOORS: Final = 1_000_000


def _ignore(_: ApiKey) -> None:
    """Take no note."""


class Seen:
    """Remembers keys.

    Attributes:
        most: how many are kept whole.
        on_change: is told what a key was before it changed, or before it was forgotten.

    Args:
        most: how many to keep whole.
    """

    def __init__(self, most: int) -> None:
        """See the class."""
        self.most = most
        self.on_change: Callable[[ApiKey], None] = _ignore
        self._keys: dict[str, ApiKey] = {}
        self._floors: dict[str, int] = {}
        self._lost: dict[str, ApiKey] = {}

    def __len__(self) -> int:
        """Return how many are kept whole."""
        return len(self._keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """Those that are kept whole."""
        return tuple(self._keys)

    def key(self, id_: str) -> ApiKey | None:
        """Return a key as it was last seen."""
        return self._keys.get(id_)

    def version(self, id_: str) -> int:
        """Return the newest version that was seen of a key; 0 for none that is remembered."""
        key = self._keys.get(id_)
        return self._floors.get(id_, 0) if key is None else key.version

    def take_lost(self) -> tuple[ApiKey, ...]:
        """Return what the store was found to have lost since this was last asked."""
        lost, self._lost = tuple(self._lost.values()), {}
        return lost

    def believed(
        self, ids: Sequence[str], found: Sequence[ApiKey | KeysUnavailable | None]
    ) -> list[ApiKey | KeysUnavailable | None]:
        """Take note of what the store says of some keys, and return what to believe of each."""
        return [self._believed(id_, one) for id_, one in zip(ids, found, strict=True)]

    def _believed(
        self, id_: str, found: ApiKey | KeysUnavailable | None
    ) -> ApiKey | KeysUnavailable | None:
        if isinstance(found, KeysUnavailable):
            if isinstance(found, KeyUnreadable) and id_ in self._keys:
                self._let_go(self._keys.pop(id_))
            return found
        seen = self._keys.get(id_)
        version = self.version(id_)
        if found is None and not version:
            return None
        if found is None or found.version < version:
            if seen is None:
                return KeysUnavailable("the store has an older version than was seen here")
            self._lost[id_] = seen
            return seen
        if seen is None or found.version > seen.version:
            self.put(found)
        return found

    def put(self, key: ApiKey) -> None:
        """Take note of a key that is newer than what was seen of it."""
        before = self._keys.pop(key.id, None)
        if before is not None:
            self.on_change(before)
        elif len(self._keys) >= self.most:
            self._let_go(self._keys.pop(next(iter(self._keys))))
        self._keys[key.id] = key

    def _let_go(self, key: ApiKey) -> None:
        self.on_change(key)
        if not key.changed:
            return  # There is no older version of a key that never changed.
        if len(self._floors) >= MOST_FLOORS:
            del self._floors[next(iter(self._floors))]
        self._floors[key.id] = key.version
