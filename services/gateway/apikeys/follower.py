"""Follows the changes of the store, so that a revoked key is given up everywhere within a second.

It asks five times a second. On every new connection, and where changes were forgotten, it reads
again every key that is remembered here; what the store has lost it gets back.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from services.common.clock import Clock
from services.gateway.apikeys.cache import KeyCache
from services.gateway.apikeys.ports import KeyStore, KeysUnavailable, Observer
from services.gateway.apikeys.seen import Seen

EVERY_S: Final = 0.2
REREAD_EVERY_S: Final = 60.0
"""Everything that is remembered is compared so often, whatever the list of changes says."""
AT_ONCE: Final = 500
TOLD_WITHIN_S: Final = 3_600.0
"""A change past the gateways is recorded when it is seen within this; claims last longer."""

_log = structlog.get_logger()


class Follower:
    """Keeps a cache true.

    Args:
        store: whose changes are followed.
        seen: what is remembered of keys.
        cache: what is at hand.
        observer: counts.
        clock: for how long the store is gone.
        stale_after_s: how long known keys are accepted without the store.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour or one declared choice
        self,
        store: KeyStore,
        seen: Seen,
        cache: KeyCache,
        observer: Observer,
        clock: Clock,
        *,
        stale_after_s: float,
    ) -> None:
        """See the class."""
        self._store = store
        self._seen = seen
        self._cache = cache
        self._observer = observer
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._link = 0
        self._revision = 0
        self._reread = 0.0
        self._heard = clock.monotonic()
        self._told: set[tuple[str, int]] = set()

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - whatever it is, the next look may be better
                _log.exception("following the store of API keys failed")
                self._cache.connected = False
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Look once."""
        now = self._clock.monotonic()
        try:
            await self._take_changes(now)
        except KeysUnavailable:
            self._cache.connected = False
            if not self._cache.stale and now - self._heard > self._stale_after_s:
                self._cache.stale = True
                self._cache.forget_all()
                _log.error("known API keys are refused: their store is gone for too long")
            return
        self._heard = now
        self._cache.connected, self._cache.stale = True, False

    async def _take_changes(self, now: float) -> None:
        link = self._store.link
        anew = link != self._link or now - self._reread > REREAD_EVERY_S
        # Another connection may be another store, where the old revision means nothing.
        revision = self._revision if link == self._link else 0
        more = True
        while more:
            changes = await self._store.changes(revision)
            if changes.complete:
                await self._read(changes.ids)
                revision, more = changes.revision, changes.more
            else:
                revision, anew = 0, True
        if anew:
            await self._read(self._seen.ids)
        await self.give_back()
        self._revision = revision
        if anew:
            self._link, self._reread = link, now

    async def _read(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), AT_ONCE):
            part = ids[start : start + AT_ONCE]
            self._seen.believed(part, await self._store.read(part))
            await self._tell_what_went_past(part)

    async def give_back(self) -> None:
        """Give the store back what it was found to have lost.

        Raises:
            KeysUnavailable: the store cannot be asked now.
        """
        lost = self._seen.take_lost()
        if lost:
            self._observer.regressed([key.id for key in lost])
            for start in range(0, len(lost), AT_ONCE):
                await self._store.put_back(lost[start : start + AT_ONCE])

    async def _tell_what_went_past(self, ids: Sequence[str]) -> None:
        """Record what was changed past every gateway; the first who sees it does."""
        for id_ in ids:
            key = self._seen.key(id_)
            if key is None or not key.past_gateway or (id_, key.version) in self._told:
                continue
            lately = self._clock.time() - key.changed < TOLD_WITHIN_S
            if lately and await self._store.claim(key):
                self._observer.changed_elsewhere(key)
            if len(self._told) >= AT_ONCE:
                self._told.clear()
            self._told.add((id_, key.version))
