"""Erasing: what the side store holds of a person or a record is destroyed, and the log says so.

An order is a record in the log before it is carried out. Whoever opens the log with an older side
store, one that was restored from a backup, carries the orders out again: so a backup brings nobody
back. An order names no person: it names pseudonyms and records.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from services.audit.events import OwnEvents
from services.audit.index import Filter
from services.audit.record import Principal, Summary, summarise
from services.audit.sidestore.pseudonyms import Identity
from services.audit.sidestore.store import SideStore
from services.common.errors import NotFound, Unavailable

_CHUNK = 1_000
_INTEGRATED_S = 5.0


class Order(NamedTuple):
    """Who asked for an erasure, and why.

    Attributes:
        administrator: who, as records show them; None for whoever runs the service.
        request_id: of their request.
        note: the reason, in words that stay in the log.
    """

    administrator: Principal | None
    request_id: str
    note: str


class Forgotten(NamedTuple):
    """What became of a principal."""

    pseudonym: str
    erased: int
    plain_records: int
    order: int


class Records(NamedTuple):
    """What erasing needs of the log.

    Attributes:
        size: how many records are durable.
        entry: returns the entry at an index; blocks.
        find: finds records: filter, limit, and the index to go on behind; blocks.
        settled: waits until so many records can be found; says whether they can.
    """

    size: Callable[[], int]
    entry: Callable[[int], bytes]
    find: Callable[[Filter, int, int | None], list[int]]
    settled: Callable[[int, float], Awaitable[bool]]


class _Attributes(msgspec.Struct):
    attributes: dict[str, str] = {}


class Eraser:
    """Carries out orders.

    Args:
        store: the side store.
        events: where orders are recorded.
        records: the log.
    """

    def __init__(self, store: SideStore, events: OwnEvents, records: Records) -> None:
        """See the class."""
        self._store = store
        self._events = events
        self._records = records
        self._turn = asyncio.Lock()

    async def forget(self, identity: Identity, order: Order) -> Forgotten:
        """Destroy the key of a principal's pseudonym, and what lies beside their records.

        Raises:
            NotFound: there is no such key.
            Unavailable: the log or the disk refuses.
        """
        async with self._turn:
            caller = await asyncio.to_thread(self._store.callers.get, identity)
            plain = await asyncio.to_thread(self._plain, identity)
            if caller is None:
                raise NotFound(_unknown(len(plain)))
            wanted = {"action": "forget", "pseudonym": caller.pseudonym}
            index = await self._record(wanted, order)
            await self._carry_out_now(wanted, name_only=True)
            # What was on its way under the old pseudonym is in the log when this returns.
            await self._events.barrier()
            erased = await self._carry_out_now(wanted)
            return Forgotten(caller.pseudonym, erased, len(plain), index)

    async def erase(self, indexes: list[int], order: Order) -> tuple[int, int]:
        """Destroy what lies beside records; return how many had a key, and the order's index.

        Raises:
            NotFound: a record is beyond the log.
            Unavailable: the log or the disk refuses.
        """
        size = self._records.size()
        beyond = [index for index in indexes if index >= size]
        if beyond:
            msg = f"The log has no record {beyond[0]}; it has {size}."
            raise NotFound(msg)
        wanted = {"action": "erase", "indexes": ",".join(map(str, sorted(set(indexes))))}
        async with self._turn:
            index = await self._record(wanted, order)
            return await self._carry_out_now(wanted), index

    async def erase_of(self, identity: Identity, order: Order) -> tuple[int, int]:
        """Destroy what lies beside all records of a principal, who stays known.

        Raises:
            NotFound: there are none.
            Unavailable: the log or the disk refuses.
        """
        async with self._turn:
            await self._settle()
            caller = await asyncio.to_thread(self._store.callers.get, identity)
            plain = await asyncio.to_thread(self._plain, identity)
            wanted = {"action": "erase", "through": str(self._records.size())}
            if caller is not None:
                wanted["pseudonym"] = caller.pseudonym
            if plain:
                # The order names one of the records, and not whose it is.
                wanted["like_record"] = str(plain[-1])
            if caller is None and not plain:
                msg = "There are no records of this principal."
                raise NotFound(msg)
            index = await self._record(wanted, order)
            return await self._carry_out_now(wanted), index

    async def repeat(self) -> int:
        """Carry out again every order that this side store may have missed; return how many.

        Raises:
            Unavailable: the log or the disk refuses.
        """
        await self._settle()
        return await self._in_thread(self._repeat)

    def _repeat(self) -> int:
        size, done, after = self._records.size(), 0, None
        known = self._store.keys.reapplied
        while found := self._records.find(Filter(types=("administration",)), _CHUNK, after):
            after = found[-1]
            for index in found:
                entry = msgspec.json.decode(self._records.entry(index), type=_Attributes)
                action = entry.attributes.get("action")
                if action in ("forget", "erase"):
                    self._carry_out(entry.attributes, name_only=index < known)
                    done += 1
        if size > known:
            self._store.keys.note_reapplied(size)
        return done

    async def _record(self, attributes: Mapping[str, str], order: Order) -> int:
        described = {**attributes, "note": order.note} if order.note else attributes
        index = await self._events.record(
            "administration",
            described,
            tries=5,
            principal=order.administrator,
            request_id=order.request_id,
        )
        if index is None:
            msg = "The audit log cannot record the order, so nothing was erased. Try again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)
        return index

    async def _carry_out_now(self, wanted: Mapping[str, str], *, name_only: bool = False) -> int:
        if not name_only:
            await self._settle()
        return await self._in_thread(lambda: self._carry_out(wanted, name_only=name_only))

    def _carry_out(self, wanted: Mapping[str, str], *, name_only: bool = False) -> int:
        """Destroy what an order names; doing it again changes nothing."""
        if wanted["action"] == "forget":
            self._store.callers.forget(wanted["pseudonym"])
        erased = 0
        for chunk in () if name_only else self._chunks(wanted):
            erased += self._store.keys.erase(chunk)
            self._store.texts.erase(chunk)
        return erased

    def _chunks(self, wanted: Mapping[str, str]) -> Iterator[list[int]]:
        """Yield the records that an order names."""
        if indexes := wanted.get("indexes"):
            yield [int(index) for index in indexes.split(",")]
        through = int(wanted.get("through", self._records.size()))
        filters = []
        if pseudonym := wanted.get("pseudonym"):
            filters.append(Filter(pseudonyms=(pseudonym,)))
        if record := wanted.get("like_record"):
            filters.append(_like(summarise(self._records.entry(int(record)))))
        for which in filters:
            after: int | None = None
            while found := self._records.find(which, _CHUNK, after):
                after = found[-1]
                yield [index for index in found if index < through]

    def _plain(self, identity: Identity) -> list[int]:
        """Return the records that name a principal's subject itself."""
        which = Filter(*identity)
        records: list[int] = []
        while found := self._records.find(which, _CHUNK, records[-1] if records else None):
            records += found
        return records

    async def _settle(self) -> None:
        if not await self._records.settled(self._records.size(), _INTEGRATED_S):
            msg = (
                "The newest records cannot be searched yet. What was ordered is in the log, and "
                "is carried out at the next start at the latest; or order it again."
            )
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)

    @staticmethod
    async def _in_thread(work: Callable[[], int]) -> int:
        try:
            return await asyncio.to_thread(work)
        except (OSError, sqlite3.Error) as error:
            msg = f"The disk of the side store refuses: {error}. Order it again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0) from error


def _like(summary: Summary) -> Filter:
    who = summary.principal or Principal()
    return Filter(who.tenant, who.issuer, who.subject)


def _unknown(plain: int) -> str:
    msg = "No pseudonym of this principal is known: they never called, or were forgotten."
    if plain:
        msg += (
            f" {plain} records, from times without pseudonyms, name them and cannot be changed; "
            f"`weaver audit erase` destroys what their texts could be read or proven with."
        )
    return msg
