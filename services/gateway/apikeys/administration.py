"""What administrators do with keys: make, change, rotate, list; who may is decided elsewhere."""

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from services.common.clock import Clock
from services.common.errors import NotFound, Unavailable
from services.gateway.apikeys import text
from services.gateway.apikeys.key import ApiKey, new_key
from services.gateway.apikeys.order import NewKey
from services.gateway.apikeys.ports import KeyStore, KeysUnavailable, Written
from services.gateway.apikeys.seen import Seen

TRIES: Final = 5
CHUNK: Final = 1_000
MOST_LOOKED_AT: Final = 20_000
"""How many keys one page is searched for in, where a filter leaves out most of them."""

Change = Callable[[ApiKey, int], ApiKey]
"""Returns what a key becomes, given the Unix seconds."""


class Filter(msgspec.Struct, frozen=True):
    """Which keys are listed; empty for all."""

    tenant: str = ""
    owner: str = ""
    state: str = ""

    def fits(self, key: ApiKey, now: float) -> bool:
        """Say whether a key is one of them."""
        return (
            self.tenant in {"", key.tenant}
            and self.owner in {"", key.owner}
            and self.state in {"", key.state(now)}
        )


class Administration:
    """Changes keys.

    Args:
        store: where they are.
        seen: what was seen of them, below which nothing goes.
        give_back: gives the store back what it has lost.
        clock: for times.
        past_gateway: whether this is no gateway, so that gateways record what they see changed.
    """

    def __init__(
        self,
        store: KeyStore,
        seen: Seen,
        give_back: Callable[[], Awaitable[None]],
        clock: Clock,
        *,
        past_gateway: bool = False,
    ) -> None:
        """See the class."""
        self._store = store
        self._seen = seen
        self._give_back = give_back
        self._clock = clock
        self._past_gateway = past_gateway

    def now(self) -> float:
        """Return the time by which keys are judged, in Unix seconds."""
        return self._clock.time()

    async def create(self, made: text.Made, order: NewKey, by: str) -> Written:
        """Make a key.

        Raises:
            Unavailable: the store cannot be asked; if the key was made, nobody knows its text.
        """
        now = int(self._clock.time())
        key = new_key(
            made,
            tenant=order.tenant,
            owner=order.owner,
            roles=order.roles,
            models=order.models,
            limits=order.limits,
            expires=now + order.life_s if order.life_s else 0,
            now=now,
        )
        try:
            written = await self._store.write(self._signed(key, now, by), expected=0)
        except KeysUnavailable as error:
            raise _unavailable(error) from error
        if not written.done:
            msg = "The key could not be made. Try again."
            raise Unavailable(msg, reason="IDENTITY_UNAVAILABLE", retry_after_s=1.0)
        self._seen.put(written.key)
        return written

    async def get(self, id_: str) -> ApiKey:
        """Return a key.

        Raises:
            NotFound: there is no such key.
            Unavailable: the store cannot be asked.
        """
        try:
            (found,) = self._seen.believed((id_,), await self._store.read((id_,)))
        except KeysUnavailable as error:
            raise _unavailable(error) from error
        if isinstance(found, KeysUnavailable):
            raise _unavailable(found)
        if found is None:
            msg = f"There is no API key {id_}."
            raise NotFound(msg)
        return found

    async def change(self, id_: str, change: Change, by: str) -> Written:
        """Change a key, as many times as others change it at the same moment.

        Raises:
            InvalidArgument: the change does not fit the key.
            NotFound: there is no such key.
            Unavailable: the store cannot be asked; the change may have been made.
        """
        for _ in range(TRIES):
            key = await self.get(id_)
            now = int(self._clock.time())
            changed = self._signed(change(key, now), now, by)
            try:
                await self._give_back()
                floor = self._seen.version(id_)
                written = await self._store.write(changed, expected=key.version, floor=floor)
            except KeysUnavailable as error:
                raise _unavailable(error) from error
            if written.done:
                if written.key.version > self._seen.version(id_):
                    self._seen.put(written.key)
                return written
        msg = "Others change this key all the time. Try again."
        raise Unavailable(msg, reason="IDENTITY_UNAVAILABLE", retry_after_s=1.0)

    async def page(self, wanted: Filter, start: int, size: int) -> tuple[list[ApiKey], int | None]:
        """Return some keys, the oldest first, and where the next ones begin; None at the end.

        Raises:
            Unavailable: the store cannot be asked.
        """
        found: list[ApiKey] = []
        now, looked_at, rank = self._clock.time(), 0, start
        plain = wanted == Filter()
        while True:
            chunk = size - len(found) if plain else CHUNK
            try:
                page = await self._store.page(rank, chunk)
            except KeysUnavailable as error:
                raise _unavailable(error) from error
            for offset, key in enumerate(page.keys):
                newest = None if key is None else self._newest(key)
                if newest is not None and wanted.fits(newest, now):
                    found.append(newest)
                if len(found) == size:
                    more = rank + offset + 1
                    return found, more if offset + 1 < len(page.keys) else page.next_rank
            looked_at += chunk
            if page.next_rank is None or looked_at >= MOST_LOOKED_AT:
                return found, page.next_rank
            rank = page.next_rank

    def _newest(self, key: ApiKey) -> ApiKey:
        """Return a key as it is believed here: never older than it was seen."""
        seen = self._seen.key(key.id)
        return key if seen is None or seen.version < key.version else seen

    def _signed(self, key: ApiKey, now: int, by: str) -> ApiKey:
        return msgspec.structs.replace(
            key, changed=now, changed_by=by[:512], past_gateway=self._past_gateway
        )


def _unavailable(error: KeysUnavailable) -> Unavailable:
    msg = f"The store of API keys cannot be asked now: {error}. Try again."
    return Unavailable(msg, reason="IDENTITY_UNAVAILABLE", retry_after_s=1.0)
