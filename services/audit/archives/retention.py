"""Retention: entry bundles whose records are all older than so many days are removed.

Only full bundles from the log's beginning on; every hash stays, so that the log still verifies and
every old checkpoint, receipt and consistency proof holds. First a record of the log announces what
is pruned, under a published checkpoint; then the index and the bundles go. A crash in between is
finished at the next start.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from services.audit.archives.archived import Archived, read_archived
from services.audit.archives.pruning import pruning_attributes, recorded_pruning
from services.audit.checkpoint import SignedCheckpoint
from services.audit.layout import Layout
from services.audit.merkle import TILE_WIDTH, tree_root
from services.audit.record import event_time_text, summarise
from services.audit.tiles import ENTRIES, Tile, TileDirectory, TileReader
from services.audit.verification.inventory import LogDirectory
from services.common.clock import Clock
from services.common.files import replace_file

PRUNED = "pruned"
_DAY_S = 86_400
_MAX_BUNDLES = 8_192
_BATCH = 64
_PAUSE_S = 0.02
_COVER_S = 30.0


class _Pruned(msgspec.Struct):
    """How far the log is pruned: announced, and done."""

    end: int = 0
    removed: int = 0


class GrowingLog(Protocol):
    """What pruning needs of the log."""

    @property
    def checkpoint(self) -> SignedCheckpoint | None:
        """The newest published checkpoint."""
        ...

    async def wait_integrated(self, size: int, timeout_s: float) -> bool:
        """Wait until a published checkpoint covers so many records."""
        ...


class Announce(Protocol):
    """Writes a record into the log."""

    async def __call__(self, attributes: dict[str, str]) -> int | None:
        """Append an administration record and return its index; None when that failed."""
        ...


@dataclass(frozen=True)
class Rule:
    """What may be pruned.

    Attributes:
        days: records younger than this stay.
        archived_only: what is not in an archive stays.
    """

    days: int
    archived_only: bool = True


class Minimum:
    """The first record that the log keeps, as it is written down beside the log.

    Args:
        layout: where the log lies.
    """

    def __init__(self, layout: Layout) -> None:
        """See the class."""
        self._log = layout.log
        self._path = layout.private / PRUNED
        self._state = self._load()

    def __call__(self) -> int:
        """Return the first record that is kept."""
        return self._state.end

    @property
    def removed(self) -> int:
        """Up to which record the bundles are gone for certain."""
        return self._state.removed

    def announce(self, end: int) -> None:
        """Write down how far the log is pruned, before anything is removed.

        Raises:
            OSError: the disk refuses.
        """
        self._save(_Pruned(end, self._state.removed))

    def done(self) -> None:
        """Write down that everything that was announced is removed.

        Raises:
            OSError: the disk refuses.
        """
        self._save(_Pruned(self._state.end, self._state.end))

    def _load(self) -> _Pruned:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Pruned)
        except (FileNotFoundError, msgspec.DecodeError):
            if TileDirectory(self._log, self._log).path(Tile(ENTRIES, 0)).exists():
                return _Pruned()
        # A log that was restored: what was pruned is what a record of it says.
        end = recorded_pruning(LogDirectory(self._log))
        return _Pruned(end, end)

    def _save(self, state: _Pruned) -> None:
        replace_file(self._path, msgspec.json.encode(state))
        self._state = state


class Retention:
    """Prunes one log.

    Args:
        layout: where the log lies.
        tiles: its tiles.
        log: the log.
        minimum: the first record that is kept.
        announce: writes the record that says what is pruned.
        forget: is called with the first record that is pruned now and the first that is kept,
            before bundles go: the index and the side store follow.
        clock: for ages.
    """

    def __init__(  # noqa: PLR0913 - what pruning touches
        self,
        *,
        layout: Layout,
        tiles: TileDirectory,
        log: GrowingLog,
        minimum: Minimum,
        announce: Announce,
        forget: Sequence[Callable[[int, int], None]],
        clock: Clock,
    ) -> None:
        """See the class."""
        self._layout = layout
        self._tiles = tiles
        self._log = log
        self._minimum = minimum
        self._announce = announce
        self._forget = forget
        self._clock = clock

    async def prune(self, rule: Rule) -> int:
        """Prune what may be pruned now, and return the first record that is kept.

        Raises:
            OSError: the disk refuses; what was announced is finished later.
            ValueError: a bundle is damaged.
        """
        await self.finish()
        end, archived = await asyncio.to_thread(self.eligible, rule)
        if end <= self._minimum():
            return self._minimum()
        attributes = pruning_attributes(end, self._cutoff(rule), archived)
        index = await self._announce(attributes)
        if index is None or not await self._log.wait_integrated(index + 1, _COVER_S):
            return self._minimum()  # Announced at most; nothing is removed without a checkpoint.
        await asyncio.to_thread(self._minimum.announce, end)
        await self.finish()
        return end

    async def finish(self) -> None:
        """Remove what was announced and is still there, a few bundles at a time.

        Raises:
            OSError: the disk refuses.
        """
        end = self._minimum()
        if self._minimum.removed >= end:
            return
        for forget in self._forget:
            await asyncio.to_thread(forget, self._minimum.removed, end)
        numbers = range(self._minimum.removed // TILE_WIDTH, end // TILE_WIDTH)
        for start in range(0, len(numbers), _BATCH):
            await asyncio.to_thread(self._remove, numbers[start : start + _BATCH])
            await asyncio.sleep(_PAUSE_S)
        await asyncio.to_thread(self._minimum.done)

    def eligible(self, rule: Rule) -> tuple[int, str]:
        """Return the first record that has to stay, and where those before it are archived.

        Raises:
            OSError: a bundle cannot be read.
            ValueError: a bundle is damaged.
        """
        minimum = self._minimum()
        signed = self._log.checkpoint
        if signed is None:
            return minimum, ""
        archived = self._archived(signed)
        end = signed.checkpoint.size
        if rule.archived_only:
            end = 0 if archived is None else min(end, archived.size)
        cutoff = self._cutoff(rule)
        first = minimum // TILE_WIDTH
        last = min(end // TILE_WIDTH, first + _MAX_BUNDLES)
        number = first
        while number < last and self._is_old(number, signed.checkpoint.size, cutoff):
            number += 1
        kept = max(minimum, number * TILE_WIDTH)
        named = archived is not None and archived.size >= kept
        return kept, archived.target if archived is not None and named else ""

    def _archived(self, signed: SignedCheckpoint) -> Archived | None:
        """Return the last good archive, if it is of this very log."""
        found = read_archived(self._layout)
        if found is None or found.origin != signed.checkpoint.origin:
            return None
        if found.size > signed.checkpoint.size:
            return None
        reader = TileReader(self._tiles, signed.checkpoint.size)
        return found if tree_root(reader, found.size).hex() == found.root else None

    def _is_old(self, number: int, size: int, cutoff: str) -> bool:
        entries = self._tiles.entries(number, size)
        return all(summarise(entry).event_time < cutoff for entry in entries)

    def _cutoff(self, rule: Rule) -> str:
        """Return the time before which records are old, as records write times."""
        return event_time_text(int(self._clock.time()) - rule.days * _DAY_S, 0)

    def _remove(self, numbers: range) -> None:
        for number in numbers:
            tile = Tile(ENTRIES, number)
            self._tiles.path(tile).unlink(missing_ok=True)
            self._tiles.remove_partials(tile)
