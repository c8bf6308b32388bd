"""Reads single records, listings and receipts of a log over HTTP, without reading all of it."""

from collections.abc import Iterator
from urllib.parse import urlencode

import msgspec

from services.audit.index import Filter
from services.audit.tiles import ENTRIES, Tile, cut, tile_at, unpack_entries
from services.audit.verification.offline import Listed, OfflineError, OfflineLog
from services.audit.verification.remote import RemoteLog
from services.audit.verification.web import WebClient

_MAX_PAGE = 1_000
_MAX_PAGE_SIZE = 256 * 1024 * 1024


class RemoteTiles:
    """The files of a log at an address.

    Args:
        log: the log.
    """

    def __init__(self, log: RemoteLog) -> None:
        """See the class."""
        self._log = log

    @property
    def source(self) -> RemoteLog:
        """The log."""
        return self._log

    def checkpoint(self) -> bytes:
        """Return the bytes of the newest checkpoint."""
        return self._log.checkpoint()

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile."""
        found = self._log.fetch(tile)
        if found is None:
            msg = f"tile/{tile.path} is missing"
            raise FileNotFoundError(msg)
        return cut(tile, found[1])

    def entries(self, index: int, size: int) -> list[bytes]:
        """Return the entries of the bundle at an index as a log of a size has it."""
        return unpack_entries(self.read(tile_at(ENTRIES, index, size)))


class _Stored(msgspec.Struct):
    index: int
    record: msgspec.Raw


class _Page(msgspec.Struct):
    records: list[_Stored]
    next_page_token: str = ""


class ServiceLog(OfflineLog):
    """A log at Weaver's front door, which finds records by its index.

    Args:
        log: the log.
        client: the front door.
    """

    def __init__(self, log: RemoteLog, client: WebClient) -> None:
        """See the class."""
        super().__init__(RemoteTiles(log))
        self._root = log.root
        self._client = client

    def find(
        self, wanted: Filter, *, ascending: bool = False, after: int | None = None
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the records that match; what only tiles can tell is read from them."""
        if ascending or after is not None or wanted == Filter():
            yield from super().find(wanted, ascending=ascending, after=after)
            return
        token = ""
        while True:
            page = self.page(wanted, limit=_MAX_PAGE, token=token, ascending=False)
            yield from page.records
            token = page.next_token
            if not token:
                return

    def page(self, wanted: Filter, *, limit: int, token: str, ascending: bool) -> Listed:
        """Return a page of the records that match, from the service's own listing."""
        if ascending:
            return super().page(wanted, limit=limit, token=token, ascending=True)
        records: list[tuple[int, bytes]] = []
        while True:
            page = self._ask(wanted, min(limit - len(records), _MAX_PAGE), token)
            records += [(stored.index, bytes(stored.record)) for stored in page.records]
            token = page.next_page_token
            if not token or len(records) >= limit:
                return Listed(records, token)

    def _ask(self, wanted: Filter, limit: int, token: str) -> _Page:
        asked = [
            ("tenant", wanted.tenant),
            ("subject", wanted.subject),
            ("request_id", wanted.request_id),
            ("start_time", wanted.start_time),
            ("end_time", wanted.end_time),
            ("page_token", token),
            ("page_size", str(limit)),
            *(("type", name) for name in wanted.types),
        ]
        query = urlencode([(name, value) for name, value in asked if value])
        data = self._client.get(f"{self._root}/records?{query}", _MAX_PAGE_SIZE)
        try:
            return msgspec.json.decode(data or b"", type=_Page)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            msg = "the service's listing cannot be read"
            raise OfflineError(msg) from None
