"""Copies a log to an archive and proves the copy.

Tiles and full bundles never change, so only what is new is copied; each object is read back and
compared. The archive's checkpoint moves on last, when everything that it covers is there, so an
archive is good at any moment, whenever the work breaks off. Nothing is deleted, and an archive is
never replaced by a log that is shorter, forked or another.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice

import msgspec

from services.audit.archives.archived import (
    HISTORIES,
    KEYS,
    LOG,
    MANIFEST,
    PRIVATE,
    Archived,
    ArchiveReport,
    ArchivingError,
    merged_keys,
    merged_lines,
    read_file,
    write_archived,
)
from services.audit.archives.pruning import recorded_pruning
from services.audit.archives.targets import Target
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.archive import ArchiveError, load_archive, rfc3339
from services.audit.layout import Layout
from services.audit.merkle import (
    HASH_SIZE,
    TILE_HEIGHT,
    TILE_WIDTH,
    RightEdge,
    leaf_hash,
    root_of,
    tree_root,
)
from services.audit.note import NoteError
from services.audit.recovery import signed_by
from services.audit.tiles import (
    ENTRIES,
    Tile,
    TileDirectory,
    TileReader,
    split_hashes,
    tiles_of,
    unpack_entries,
)
from services.audit.verification.inventory import WITNESSED, LogDirectory

Progress = Callable[[int, int], None]


class ArchivingBusyError(Exception):
    """Somebody archives this log right now."""


class Archiver:
    """Archives one log.

    Args:
        layout: where the log lies.
        target: where the archive lies.
        full: read back and compare every object, not only the new ones.
        repair: replace damaged objects of the archive.
        now: the Unix time.
    """

    def __init__(
        self,
        layout: Layout,
        target: Target,
        *,
        full: bool = False,
        repair: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """See the class."""
        self._layout = layout
        self._target = target
        self._full = full
        self._repair = repair
        self._pruned = 0
        self._now = now
        self._tiles = TileDirectory(layout.log, layout.log)
        self._proven = 0
        self._found: dict[str, int] = {}
        self.report = ArchiveReport(target=target.name)

    def run(self, progress: Progress) -> ArchiveReport:
        """Copy what is new, prove it, and move the archive's checkpoint on.

        Raises:
            ArchivingError: the log is damaged, or not the one that the archive holds.
            ArchivingBusyError: somebody archives this log right now.
            TargetError: the target does not take it; what is there stays good.
        """
        with _only_one(self._layout):
            return self._run(progress)

    def _run(self, progress: Progress) -> ArchiveReport:
        started = time.monotonic()
        report = self.report
        signed = self._source()
        checkpoint = signed.checkpoint
        report.origin, report.size = checkpoint.origin, checkpoint.size
        self._compare_with_archive(signed)
        self._check_edge(signed)
        self._found = self._target.sizes(f"{LOG}/tile")
        tiles = list(tiles_of(checkpoint.size))
        done = 0
        with ThreadPoolExecutor(self._target.at_once, "archive") as pool:
            for window in _windows(tiles, self._target.at_once * 2):
                for _ in pool.map(self._copy, window):
                    done += 1
                progress(done, len(tiles))
        if report.damaged:
            report.seconds = time.monotonic() - started
            return report
        self._copy_beside(signed)
        report.time = rfc3339(self._now())
        self._finish(signed)
        report.seconds = time.monotonic() - started
        return report

    def _source(self) -> SignedCheckpoint:
        """Return the log's checkpoint, signed by a key of its archive of keys."""
        try:
            signed = parse_signed_checkpoint(self._layout.checkpoint.read_bytes())
            keys = load_archive(self._layout.keys)
        except FileNotFoundError:
            msg = f"{self._layout.log} holds no log: there is no checkpoint"
            raise ArchivingError(msg) from None
        except (OSError, NoteError, ArchiveError) as error:
            msg = f"the log cannot be archived: {error}"
            raise ArchivingError(msg) from None
        if not signed_by(signed, keys.verifiers):
            msg = f"{self._layout.checkpoint} is not signed by a key in {self._layout.keys}"
            raise ArchivingError(msg)
        self._keys = keys
        return signed

    def _compare_with_archive(self, signed: SignedCheckpoint) -> None:
        """Refuse to go on where the archive holds anything but a prefix of this log."""
        data = self._target.read(f"{LOG}/checkpoint")
        if data is None:
            return
        try:
            old = parse_signed_checkpoint(data)
        except NoteError as error:
            msg = f"the archive's checkpoint is damaged: {error}. Archive to another place."
            raise ArchivingError(msg) from None
        here, there = signed.checkpoint, old.checkpoint
        self.report.previous_size = there.size
        if there.origin != here.origin:
            msg = f"the archive holds the log {there.origin}, not {here.origin}; name another place"
            raise ArchivingError(msg)
        if not signed_by(old, self._keys.verifiers):
            msg = "the archive's checkpoint is not signed by a key of this log"
            raise ArchivingError(msg)
        if there.size > here.size:
            msg = (
                f"the archive holds {there.size} records and this log has {here.size}: the log "
                f"went back. The archive stays as it is."
            )
            raise ArchivingError(msg)
        try:
            root = tree_root(TileReader(self._tiles, here.size), there.size)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None
        if root != there.root:
            msg = (
                f"the first {there.size} records of this log are not those of the archive: the "
                f"log was forked. The archive stays as it is; verify both."
            )
            raise ArchivingError(msg)
        self._proven = there.size

    def _check_edge(self, signed: SignedCheckpoint) -> None:
        """Refuse a log whose tiles do not have the signed root."""
        size = signed.checkpoint.size
        levels: list[list[bytes]] = []
        while rows := size >> (TILE_HEIGHT * len(levels)):
            tile = Tile(len(levels), rows // TILE_WIDTH, rows % TILE_WIDTH)
            levels.append(split_hashes(self._read(tile)) if tile.width else [])
        if RightEdge(size, levels).root() != signed.checkpoint.root:
            raise self._damaged("its tiles do not have the signed root")

    def _copy(self, tile: Tile) -> None:
        """Bring one object to the archive, unless it is there and proven, or was pruned here."""
        try:
            self._bring(tile)
        except ArchivingError:
            if tile.level != ENTRIES or self._is_here(tile) or not self._was_pruned(tile):
                raise
            self.report.absent += f"{LOG}/tile/{tile.path}" not in self._found

    def _bring(self, tile: Tile) -> None:
        path = f"{LOG}/tile/{tile.path}"
        old = _end(tile) <= self._proven
        here = self._found.get(path)
        if here is not None and old and not self._full and here == self._size_here(tile):
            self.report.present += 1
            return
        data = self._read(tile)
        self._check(tile, data)
        if here is None:
            if old:
                self.report.healed.append(path)
            self._put(path, data)
        elif self._target.read(path) == data:
            self.report.present += 1
        elif self._repair:
            self._put(path, data)
            self.report.repaired.append(path)
        else:
            self.report.damaged.append(path)

    def _put(self, path: str, data: bytes) -> None:
        """Write an object and prove it by reading it back."""
        self._target.write(path, data)
        if self._target.read(path) != data:
            msg = f"{self._target.name}/{path} does not read back as it was written"
            raise ArchivingError(msg)
        self.report.copied += 1
        self.report.bytes_copied += len(data)

    def _check(self, tile: Tile, data: bytes) -> None:
        """Refuse an object of the log that does not fit the tree above or below it.

        Together with the signed root over the right edge this proves every object: entries by the
        lowest tiles, each full tile by the hash that the tile above has of it.
        """
        if tile.level == ENTRIES:
            row = split_hashes(self._read(Tile(0, tile.number, tile.width)))
            try:
                good = [leaf_hash(entry) for entry in unpack_entries(data)] == row
            except ValueError:
                good = False
        elif tile.width == TILE_WIDTH:
            good = self._above(tile) == root_of(split_hashes(data))
        else:
            good = True  # A part of the right edge, which has the signed root.
        if not good:
            raise self._damaged(f"tile/{tile.path} is not what was signed")

    def _above(self, tile: Tile) -> bytes:
        number, offset = divmod(tile.number, TILE_WIDTH)
        rows = self.report.size >> (TILE_HEIGHT * (tile.level + 1))
        parent = Tile(tile.level + 1, number, min(TILE_WIDTH, rows - number * TILE_WIDTH))
        return split_hashes(self._read(parent))[offset]

    def _size_here(self, tile: Tile) -> int:
        """Return the bytes that a tile has, without reading it where that can be."""
        if tile.level != ENTRIES:
            return tile.width * HASH_SIZE
        if tile.width < TILE_WIDTH:
            return len(self._read(tile))
        try:
            return self._tiles.path(tile).stat().st_size
        except OSError as error:
            raise self._damaged(str(error)) from None

    def _is_here(self, tile: Tile) -> bool:
        return self._tiles.path(tile).exists() or self._tiles.path(tile.full).exists()

    def _was_pruned(self, tile: Tile) -> bool:
        """Say whether the log itself says so; it may be pruned while it is being archived."""
        if _end(tile) > self._pruned:
            self._pruned = recorded_pruning(LogDirectory(self._layout.log))
        return _end(tile) <= self._pruned

    def _read(self, tile: Tile) -> bytes:
        try:
            return self._tiles.read(tile)
        except (OSError, ValueError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, what: str) -> ArchivingError:
        return ArchivingError(
            f"the log in {self._layout.log} is damaged: {what}. "
            f"Run `weaver audit verify` on it; the archive stays as it is."
        )

    def _copy_beside(self, signed: SignedCheckpoint) -> None:
        """Bring what may change: keys, remembered checkpoints, then the checkpoint itself."""
        self._replace(KEYS, merged_keys(self._target.read(KEYS), self._layout.keys))
        for name in HISTORIES:
            path = f"{PRIVATE}/{name}"
            lines = merged_lines(self._target.read(path), self._layout.private / name)
            if lines:
                self._replace(path, lines)
        witnessed = read_file(self._layout.log / WITNESSED)
        if witnessed:
            size = parse_signed_checkpoint(witnessed).checkpoint.size
            if size <= signed.checkpoint.size:
                self._replace(f"{LOG}/{WITNESSED}", witnessed)

    def _finish(self, signed: SignedCheckpoint) -> None:
        """Move the checkpoint on, and write down that all is well."""
        self._replace(f"{LOG}/checkpoint", str(signed.note).encode())
        done = Archived(
            origin=self.report.origin,
            size=self.report.size,
            root=signed.checkpoint.root.hex(),
            time=self.report.time,
            target=self._target.name,
            pruned=self._pruned,
        )
        data = msgspec.json.format(msgspec.json.encode(done), indent=2) + b"\n"
        self._replace(MANIFEST, data)
        self.report.remembered = write_archived(self._layout, data)

    def _replace(self, path: str, data: bytes) -> None:
        if self._target.read(path) != data:
            self._put(path, data)


@contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    """Hold the lock of archiving, where the log's private directory can be written."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(layout.private / "archive.lock", flags, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        msg = f"{layout.log} is being archived right now; wait for that to end"
        raise ArchivingBusyError(msg) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _end(tile: Tile) -> int:
    """Return the first record behind a tile; a partial one counts as it is."""
    shift = TILE_HEIGHT * max(tile.level, 0)
    return (tile.number * TILE_WIDTH + tile.width) << shift


def _windows(tiles: Iterable[Tile], size: int) -> Iterator[list[Tile]]:
    iterator = iter(tiles)
    while window := list(islice(iterator, size)):
        yield window
