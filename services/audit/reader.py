"""Reads the log for others: records, listings, proofs, tiles, keys.

Entries come from tiles or, while the tree is behind, from memory; the index only says where to
look. Reading a file may wait for a disk, so it happens in threads.
"""

import asyncio
import base64
import binascii
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

import msgspec

from services.audit.checkpoint import SignedCheckpoint
from services.audit.index import Filter
from services.audit.keys.archive import ArchivedKey, KeyArchive
from services.audit.log import Log
from services.audit.matching import matches
from services.audit.merkle import TILE_WIDTH, consistency_proof
from services.audit.receipt import Receipt, make_receipt
from services.audit.record import summarise
from services.audit.tiles import ENTRIES, TileDirectory, TileReader, parse_path
from services.common.errors import InvalidArgument, NotFound, Unavailable

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
_COVER_S = 1.0
_PATIENCE_S = 600.0


class Finder(Protocol):
    """Says where records are: right most of the time, and never trusted."""

    def find(
        self,
        wanted: Filter,
        *,
        limit: int,
        after: int | None,
        ascending: bool,
        patience_s: float = 0.0,
    ) -> list[int]:
        """Return the indexes of records that match, in order."""
        ...

    def distrust(self) -> None:
        """Take note that it named a record that it should not have."""
        ...


_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Stored:
    """A record as the log holds it."""

    index: int
    entry: bytes


class Page(NamedTuple):
    """A page of a listing; the token is empty on the last."""

    records: list[Stored]
    next_token: str


class _Token(msgspec.Struct, array_like=True):
    """What a page token says: which listing, and where it goes on."""

    listing: bytes
    after: int


class Reader:
    """Answers questions about one log.

    Args:
        log: the log.
        tiles: its tiles.
        index: where records are.
        archive: its public keys.
        witnessed: returns the newest checkpoint that a quorum of witnesses cosigned.
        minimum: returns the first record that the log keeps.
    """

    def __init__(  # noqa: PLR0913 - what it reads from
        self,
        log: Log,
        tiles: TileDirectory,
        index: Finder,
        archive: KeyArchive,
        *,
        witnessed: Callable[[], SignedCheckpoint | None] = lambda: None,
        minimum: Callable[[], int] = lambda: 0,
    ) -> None:
        """See the class."""
        self._minimum = minimum
        self._witnessed = witnessed
        self._log = log
        self._tiles = tiles
        self._index = index
        self._archive = archive

    @property
    def keys(self) -> list[ArchivedKey]:
        """Every public key that ever signed, oldest first."""
        return self._archive.keys

    async def record(self, index: int) -> Stored:
        """Return the record at an index.

        Raises:
            NotFound: the log is shorter, or the record was pruned.
        """
        if not 0 <= index < self._log.size:
            msg = f"The log has no record {index}; it has {self._log.size}."
            raise NotFound(msg)
        if index < self._minimum():
            msg = f"Record {index} was pruned, as retention demands: {self._kept()}"
            raise NotFound(msg)
        entry = self._log.entry_behind(index)
        if entry is None:
            (stored,) = await _from_disk(self._read, [index], self._log.integrated)
            return stored
        return Stored(index, entry)

    async def page(self, wanted: Filter, *, size: int, token: str, ascending: bool) -> Page:
        """Return a page of the records that match, with everything that is durable by now.

        Raises:
            InvalidArgument: the size or the token is bad.
            Unavailable: the index is behind.
        """
        if not 0 <= size <= MAX_PAGE:
            raise InvalidArgument.of_field("page_size", f"must be from 0 to {MAX_PAGE}.")
        limit = size or DEFAULT_PAGE
        listing = sha256(repr((wanted, ascending)).encode()).digest()[:8]
        after = _after(token, listing)
        await self._wait(self._log.size)
        found = await _from_disk(
            self._index.find, wanted, limit=limit + 1, after=after, ascending=ascending
        )
        records = await _from_disk(self._read, found[:limit], self._log.integrated)
        self._check(records, wanted)
        if len(found) <= limit:
            return Page(records, "")
        packed = msgspec.msgpack.encode(_Token(listing, found[limit - 1]))
        return Page(records, base64.urlsafe_b64encode(packed).decode().rstrip("="))

    def find(self, wanted: Filter, *, limit: int, after: int | None, ascending: bool) -> list[int]:
        """Return the indexes of integrated records that match; blocks until the index is whole.

        Raises:
            Unavailable: the index is still being made anew after ten minutes.
        """
        return self._index.find(
            wanted, limit=limit, after=after, ascending=ascending, patience_s=_PATIENCE_S
        )

    def entry(self, index: int) -> bytes:
        """Return the entry of an integrated record; blocks."""
        return self._read([index], self._log.integrated)[0].entry

    async def receipt(self, index: int) -> tuple[Stored, Receipt]:
        """Return a record and its receipt, under a checkpoint that witnesses cosigned if one does.

        Raises:
            NotFound: the log is shorter.
            Unavailable: no checkpoint covers the record within a second.
        """
        stored = await self.record(index)
        await self._wait(index + 1)
        checkpoint = self._witnessed()
        if checkpoint is None or checkpoint.checkpoint.size <= index:
            checkpoint = self.checkpoint()
        reader = TileReader(self._tiles, checkpoint.checkpoint.size)
        return stored, await _from_disk(make_receipt, index, reader, checkpoint)

    def checkpoint(self) -> SignedCheckpoint:
        """Return the newest checkpoint.

        Raises:
            Unavailable: nothing is signed yet.
        """
        if self._log.checkpoint is None:
            msg = "The log has no signed checkpoint yet; try again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)
        return self._log.checkpoint

    def witnessed_checkpoint(self) -> SignedCheckpoint:
        """Return the newest checkpoint that a quorum of witnesses cosigned.

        Raises:
            NotFound: there is none.
        """
        found = self._witnessed()
        if found is None:
            msg = "No checkpoint was cosigned by a quorum of witnesses."
            raise NotFound(msg)
        return found

    async def consistency(self, first: int, second: int) -> tuple[int, list[bytes]]:
        """Return the newer size and the proof that the log only grew between the sizes.

        Args:
            first: the older size.
            second: the newer size; 0 for the newest checkpoint's.

        Raises:
            InvalidArgument: the sizes are out of order, or beyond the checkpoint.
        """
        newest = self.checkpoint().checkpoint.size
        size = second or newest
        if not 0 <= first <= size <= newest:
            msg = f"must not be out of order or beyond the checkpoint's size, {newest}."
            raise InvalidArgument.of_field("first_size, second_size", msg)
        reader = TileReader(self._tiles, newest)
        return size, await _from_disk(consistency_proof, reader, first, size)

    async def tile(self, path: str) -> bytes:
        """Return the bytes of a tile.

        Raises:
            InvalidArgument: it is not a tile's path.
            NotFound: there is no such tile.
        """
        tile = parse_path(path)
        if tile is None:
            raise InvalidArgument.of_field("path", "must be as in `0/x001/234` or `entries/000`.")
        try:
            return await _from_disk(self._tiles.path(tile).read_bytes)
        except (FileNotFoundError, NotADirectoryError):
            msg = f"There is no tile {path}."
            if tile.level == ENTRIES and tile.number * TILE_WIDTH < self._minimum():
                msg = f"The entries of {path} were pruned, as retention demands: {self._kept()}"
            raise NotFound(msg) from None

    def _kept(self) -> str:
        least = self._minimum()
        return f"the log keeps records from {least} on, and every hash. Its archive may have more."

    def _check(self, records: Sequence[Stored], wanted: Filter) -> None:
        """Hand out nothing that the index found and the log does not bear out."""
        if not all(matches(wanted, summarise(record.entry)) for record in records):
            self._index.distrust()
            msg = "The index of the log was damaged and is being made anew; try again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)

    async def _wait(self, size: int) -> None:
        if not await self._log.wait_integrated(size, _COVER_S):
            msg = "No signed checkpoint covers the newest records yet; try again."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)

    def _read(self, indexes: list[int], size: int) -> list[Stored]:
        bundles: dict[int, list[bytes]] = {}
        records = []
        for index in indexes:
            number, offset = divmod(index, TILE_WIDTH)
            if number not in bundles:
                bundles.clear()
                bundles[number] = self._tiles.entries(number, size)
            records.append(Stored(index, bundles[number][offset]))
        return records


async def _from_disk(
    work: Callable[_Given, _Found], *arguments: _Given.args, **named: _Given.kwargs
) -> _Found:
    """Read in a thread; a disk that refuses is no fault of the caller, and may pass.

    Raises:
        Unavailable: the disk refuses.
    """
    try:
        return await asyncio.to_thread(work, *arguments, **named)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, sqlite3.OperationalError) as error:
        msg = "The audit log cannot read from its disk; try again."
        raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0) from error


def _after(token: str, listing: bytes) -> int | None:
    if not token:
        return None
    try:
        packed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        decoded = msgspec.msgpack.decode(packed, type=_Token)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        decoded = None
    if decoded is None or decoded.listing != listing or decoded.after < 0:
        raise InvalidArgument.of_field("page_token", "is not from a page of this listing.")
    return decoded.after
