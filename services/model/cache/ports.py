"""What the cache needs from outside: a store, and a place for figures."""

from typing import Protocol


class StoreGoneError(Exception):
    """The store cannot be asked now, or did not answer in time."""


class Store(Protocol):
    """Keeps bytes for a while."""

    async def get(self, name: bytes) -> bytes | None:
        """Return what is kept under a name; None when nothing is.

        Raises:
            StoreGoneError: it cannot be asked now, or did not answer in time.
        """
        ...

    def put(self, name: bytes, value: bytes, time_to_live_s: float) -> None:
        """Keep something in the background, or do not; nobody waits for it."""
        ...


class CacheMeter(Protocol):
    """Counts what becomes of requests that the cache may answer."""

    def cache_asked(self, result: str) -> None:
        """Count one look-up: `hit`, `miss`, `stale`, `refresh`, `bad` or `unavailable`."""
        ...

    def cache_kept(self, result: str) -> None:
        """Count one answer: `kept`, `too_large`, `full`, `busy` or `unavailable`."""
        ...

    def cache_saved(self, cost_micros: int) -> None:
        """Count what a hit did not cost."""
        ...
