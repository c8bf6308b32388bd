"""What the core needs of the store of keys."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from services.gateway.apikeys.key import ApiKey


class KeysUnavailable(Exception):  # noqa: N818 - a state, like the error it leads to
    """The store cannot be asked now, or what it says cannot be read here."""


class KeyUnreadable(KeysUnavailable):
    """The store has something that cannot be read here; nothing older may be taken for it."""


class Changes(msgspec.Struct, frozen=True):
    """What has changed since a revision.

    Attributes:
        ids: of the keys, each once.
        revision: up to which that is all.
        complete: whether nothing is missing that the store has forgotten, or lost.
        more: whether there are more beyond the revision.
    """

    ids: tuple[str, ...]
    revision: int
    complete: bool = True
    more: bool = False


class Written(msgspec.Struct, frozen=True):
    """What became of a change.

    Attributes:
        key: as it is now.
        done: whether it was made; else somebody else was faster and `key` is what they made.
        replicas: how many replicas the store has.
        confirmed: how many of them confirmed it in time; at most one is waited for.
        on_disk: whether the store has it on its disk; None when it does not say.
    """

    key: ApiKey
    done: bool
    replicas: int = 0
    confirmed: int = 0
    on_disk: bool | None = None

    @property
    def safe(self) -> bool:
        """Whether the loss of one store does not lose the change."""
        return self.confirmed >= min(1, self.replicas) and self.on_disk is not False


class Page(msgspec.Struct, frozen=True):
    """Some keys, the oldest first, None for one that cannot be read; and where the next begin."""

    keys: tuple[ApiKey | None, ...]
    next_rank: int | None


class KeyStore(Protocol):
    """Keeps keys."""

    @property
    def link(self) -> int:
        """A number that is another one for each connection to the store."""
        ...

    async def read(self, ids: Sequence[str]) -> list[ApiKey | KeysUnavailable | None]:
        """Return keys by their ids; None for one that there is not.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        ...

    async def changes(self, since: int) -> Changes:
        """Return what has changed after a revision; after 0: the latest changes of all.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        ...

    async def write(self, key: ApiKey, *, expected: int, floor: int = 0) -> Written:
        """Change a key that has the expected version; 0 for a new one.

        Args:
            key: as it is to be.
            expected: the version that the change was made from.
            floor: a version that the new one must be above.

        Raises:
            KeysUnavailable: the store cannot be asked now; the change may have been made.
        """
        ...

    async def put_back(self, keys: Sequence[ApiKey]) -> None:
        """Put back what the store has lost, unless it has something newer.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        ...

    async def page(self, start: int, size: int) -> Page:
        """Return keys in the order in which they were made.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        ...

    async def claim(self, key: ApiKey) -> bool:
        """Say whether we are the first to ask about this version of the key.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        ...


class Observer(Protocol):
    """Counts, and tells operators."""

    def looked_up(self, result: str) -> None:
        """Count a look-up beyond the keys that are known: `found`, `refused`, `unavailable`, …."""
        ...

    def store_changed(self, up: bool, detail: str) -> None:  # noqa: FBT001 - a state
        """Take note that the store came or went."""
        ...

    def regressed(self, ids: Sequence[str]) -> None:
        """Take note that the store has older versions of keys than it had."""
        ...

    def changed(self, action: str, *, safe: bool) -> None:
        """Count a change that an administrator made."""
        ...

    def changed_elsewhere(self, key: ApiKey) -> None:
        """Take note of a change that was made in the store, past every gateway."""
        ...
