"""Keeps the index in step with the log, and makes it anew when it is lost, damaged or another's.

The index only says where to look, so nothing waits for it but a listing: appends go on while it is
being made anew, in a thread of its own, from what lies in the log.
"""

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from pathlib import Path

import structlog

from services.audit.index import Filter, Index
from services.audit.merkle import TILE_WIDTH
from services.audit.ports import Entry
from services.audit.record import summarise
from services.audit.tiles import TileDirectory
from services.common.errors import Unavailable

_RETRY_S = 2.0
_POLL_S = 0.05
_GAP_S = 0.002
_ABOUT_PER_SECOND = 30_000
_SAMPLES = 8
_AFTER_ANY_DIGIT = "\x7f"

_log = structlog.get_logger()


class FollowingIndex:
    """An index that heals by itself; used from any thread.

    Args:
        path: the database.
        tiles: the log, which it is made from.
        size: how many records the tree has.
        minimum: returns the first record that the log keeps.
    """

    def __init__(
        self,
        path: Path,
        tiles: TileDirectory,
        size: int,
        minimum: Callable[[], int] = lambda: 0,
    ) -> None:
        """Open the index and begin to mend what is wrong with it."""
        self._minimum = minimum
        self._tiles = tiles
        self._turn = threading.Lock()
        self._work = threading.Event()
        self._closing = False
        self._wanted = size
        self._index = Index(path)
        self._broken = not self._fits()
        self._problem = ""
        self._tell: Callable[[str], None] = lambda _problem: None
        if self._broken or self._index.size < size:
            _log.info("audit_index_catches_up", records=size - self._index.size)
            self._work.set()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._heal_forever,), name="audit-index", daemon=True
        )
        self._thread.start()

    @property
    def whole(self) -> bool:
        """Whether it has all that the log has."""
        return self.size >= self._wanted

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        return 0 if self._broken else self._index.size

    def apply(self, first: int, entries: Sequence[Entry]) -> None:
        """Take records from an index on; one that is behind takes them later, from the log."""
        with self._turn:
            self._wanted = first + len(entries)
            if not self._broken and self._index.size >= first:
                try:
                    self._index.apply(first, entries)
                except (sqlite3.Error, ValueError, OSError) as error:
                    self._give_up(error)
            else:
                self._work.set()

    def find(
        self,
        wanted: Filter,
        *,
        limit: int,
        after: int | None,
        ascending: bool,
        patience_s: float = 0.0,
    ) -> list[int]:
        """Return the indexes of records that match, in order; see `Index.find`.

        Args:
            wanted: which.
            limit: how many at most.
            after: go on behind this index; None for the beginning.
            ascending: oldest first instead of newest first.
            patience_s: how long to wait, and block, while it is being made anew.

        Raises:
            Unavailable: it is being made anew.
        """
        give_up = time.monotonic() + patience_s
        while (missing := self._wanted - self.size) > 0:
            if self._closing or time.monotonic() >= give_up:
                raise _behind(missing)
            time.sleep(_POLL_S)
        try:
            return self._index.find(wanted, limit=limit, after=after, ascending=ascending)
        except sqlite3.Error as error:
            with self._turn:
                self._give_up(error)
            raise _behind(self._wanted) from None

    def distrust(self) -> None:
        """Make the index anew: it named a record that the log does not bear out."""
        with self._turn:
            self._give_up(ValueError("it named a record that it should not have"))

    def forget(self, end: int) -> None:
        """Let go of the records before an index: the log does not keep them."""
        with self._turn:
            try:
                self._index.forget(end)
            except sqlite3.Error as error:
                self._give_up(error)

    def tell(self, report: Callable[[str], None]) -> None:
        """Tell, from now on and in any thread, what is wrong; empty when nothing is."""
        self._tell = report
        report(self._problem)

    def close(self) -> None:
        """Close it; what it lacks it takes at the next start."""
        self._closing = True
        self._work.set()
        self._thread.join()
        self._index.close()

    def _report(self, problem: str) -> None:
        self._problem = problem
        self._tell(problem)

    def _give_up(self, error: Exception) -> None:
        """Have the index made anew; hold the turn."""
        _log.error("audit_index_damaged", error=str(error))
        self._broken = True
        self._work.set()

    def _fits(self) -> bool:
        """Say whether the index is of this log, by some of the records that it has."""
        size = self._index.size
        if size > self._wanted:
            return False
        least = self._minimum()
        samples = {size - 1, least, *(size * i // _SAMPLES for i in range(_SAMPLES))}
        try:
            return all(self._knows(record) for record in samples if least <= record < size)
        except (sqlite3.Error, ValueError, OSError, IndexError):
            return False

    def _knows(self, record: int) -> bool:
        number, offset = divmod(record, TILE_WIDTH)
        summary = summarise(self._tiles.entries(number, self._wanted)[offset])
        wanted = Filter(
            request_id=summary.request_id,
            types=(summary.type,),
            start_time=summary.event_time,
            end_time=summary.event_time + _AFTER_ANY_DIGIT,
        )
        return self._index.find(wanted, limit=1, after=record - 1, ascending=True) == [record]

    def _heal_forever(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            if self._closing:
                return
            try:
                self._heal()
            except (sqlite3.Error, ValueError, OSError, IndexError) as error:
                with self._turn:
                    self._broken = True
                _log.error("audit_index_not_mended", error=str(error))
                self._report(f"it cannot be made anew: {error}")
                self._work.wait(_RETRY_S)
                self._work.set()

    def _heal(self) -> None:
        if self._broken:
            with self._turn:
                self._index.reset()
                self._broken = False
        if self._wanted - self._index.size > _ABOUT_PER_SECOND:
            self._report("it is being made anew; listings wait for it")
        while not self._closing:
            with self._turn:
                if self._broken or self._index.size >= self._wanted:
                    break
                number = max(self._index.size, self._minimum()) // TILE_WIDTH
                self._index.add(number * TILE_WIDTH, self._tiles.entries(number, self._wanted))
            time.sleep(_GAP_S)  # So that whoever serves requests comes first.
        self._report("")


def _behind(missing: int) -> Unavailable:
    msg = "The index of the log is being made anew; listings come back when it is. Try again."
    retry_s = max(1.0, missing / _ABOUT_PER_SECOND)
    return Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=retry_s)
