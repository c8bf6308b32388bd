"""A store of keys in memory that can be gone, lose what it was told, and count who asks."""

import asyncio
from collections.abc import Sequence

import msgspec

from services.gateway.apikeys.key import ApiKey
from services.gateway.apikeys.ports import Changes, KeysUnavailable, Page, Written


class MemoryKeys:
    """The port `KeyStore`."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.list: list[tuple[int, str]] = []
        self.up = True
        self.link = 1
        self.asked: list[tuple[str, ...]] = []
        self.claimed: set[tuple[str, int]] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.claims_fail = 0
        self.races = 0
        """How many writes somebody else is faster than."""
        self._revision = 1_000

    def snapshot(self) -> tuple[dict[str, ApiKey], list[tuple[int, str]]]:
        return dict(self.keys), list(self.list)

    def fall_back(self, snapshot: tuple[dict[str, ApiKey], list[tuple[int, str]]]) -> None:
        """Be another store, which has not heard of what came after the snapshot."""
        self.keys, self.list = dict(snapshot[0]), list(snapshot[1])
        self.link += 1

    async def read(self, ids: Sequence[str]) -> list[ApiKey | KeysUnavailable | None]:
        self.asked.append(tuple(ids))
        self._check()
        await self.gate.wait()
        self._check()
        return [self.keys.get(id_) for id_ in ids]

    async def changes(self, since: int) -> Changes:
        self._check()
        found = [(revision, id_) for revision, id_ in self.list if revision > since]
        newest = self.list[-1][0] if self.list else 0
        return Changes(
            tuple(id_ for _, id_ in found), newest, complete=since == 0 or newest >= since
        )

    async def write(self, key: ApiKey, *, expected: int, floor: int = 0) -> Written:
        self._check()
        now = self.keys.get(key.id)
        version = 0 if now is None else now.version
        if self.races and now is not None:
            self.races -= 1
            self._put(msgspec.structs.replace(now, version=version + 1))
            return Written(self.keys[key.id], done=False)
        if version != expected:
            assert now is not None
            return Written(now, done=False)
        made = msgspec.structs.replace(key, version=max(version, floor) + 1)
        self._put(made)
        return Written(made, done=True)

    async def put_back(self, keys: Sequence[ApiKey]) -> None:
        self._check()
        for key in keys:
            now = self.keys.get(key.id)
            if now is None or now.version < key.version:
                self._put(key)

    async def page(self, start: int, size: int) -> Page:
        self._check()
        keys = list(self.keys.values())
        more = start + size if start + size < len(keys) else None
        return Page(tuple(keys[start : start + size]), more)

    async def claim(self, key: ApiKey) -> bool:
        if self.claims_fail:
            self.claims_fail -= 1
            msg = "gone"
            raise KeysUnavailable(msg)
        fresh = (key.id, key.version) not in self.claimed
        self.claimed.add((key.id, key.version))
        return fresh

    def _put(self, key: ApiKey) -> None:
        self.keys[key.id] = key
        self._revision += 1
        self.list = [(revision, id_) for revision, id_ in self.list if id_ != key.id]
        self.list.append((self._revision, key.id))

    def _check(self) -> None:
        if not self.up:
            raise KeysUnavailable("gone")


class KeyObserver:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.lost: list[str] = []
        self.changes: list[tuple[str, bool]] = []
        self.elsewhere: list[ApiKey] = []
        self.states: list[bool] = []

    def looked_up(self, result: str) -> None:
        self.results.append(result)

    def store_changed(self, up: bool, detail: str) -> None:
        self.states.append(up)

    def regressed(self, ids: Sequence[str]) -> None:
        self.lost += ids

    def changed(self, action: str, *, safe: bool) -> None:
        self.changes.append((action, safe))

    def changed_elsewhere(self, key: ApiKey) -> None:
        self.elsewhere.append(key)
