"""Copies a log over HTTP into a directory that looks like the log's own, only what is new of it.

The log is verified before anything is copied, and the copy before its checkpoint is shown; what
does not verify is taken out again. So a mirror never follows a log that went back or forked.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from services.audit.archives.pruning import recorded_pruning
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.signatures import Keys
from services.audit.merkle import TILE_WIDTH
from services.audit.note import MAX_NOTE_SIZE
from services.audit.tiles import ENTRIES, Tile, TileDirectory, tiles_of
from services.audit.verification.inventory import (
    CHECKPOINT,
    Files,
    LogDirectory,
    Source,
    read_regular,
)
from services.audit.verification.remote import RemoteLog
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.audit.verification.web import WebError

_WINDOW = 16

Progress = Callable[[int, int], None]


class _At:
    """A source under a checkpoint that was read before."""

    def __init__(self, source: Source, data: bytes) -> None:
        """See the class."""
        self._source = source
        self._data = data

    def checkpoint(self) -> bytes:
        """Return the checkpoint."""
        return self._data

    def files(self, size: int) -> Files:
        """Return the files."""
        return self._source.files(size)


def mirror(
    log: RemoteLog,
    directory: Path,
    keys: Keys,
    progress: Progress = lambda _done, _size: None,
    history: Sequence[SignedCheckpoint] = (),
) -> Report:
    """Bring a copy up to date, and return what its verification says; only a good one is shown.

    Args:
        log: where it comes from.
        directory: the copy; made if it is not there.
        keys: who may sign.
        progress: is told how many files of how many are there.
        history: checkpoints that the log must still contain.

    Raises:
        NoteError: a checkpoint is none.
        OSError: the log or the disk cannot be read.
    """
    data = log.checkpoint()
    size = parse_signed_checkpoint(data).checkpoint.size
    before = _shown(directory)
    source = _At(log, data)
    pruned = recorded_pruning(source)
    report = verify(source, keys, since=before, history=history, pruned=pruned)
    if not _is_sound(report):
        return report
    scratch = directory.with_name(f"{directory.name}.scratch")
    for made in (directory, scratch):
        made.mkdir(parents=True, exist_ok=True)
    files = TileDirectory(directory, scratch)
    written: list[Tile] = []
    try:
        names = [tile for tile in tiles_of(size) if not _is_pruned(tile, pruned)]
        _copy(log, files, names, written, progress)
        copied = _At(LogDirectory(directory), data)
        report = verify(copied, keys, since=before, history=history, pruned=pruned)
        if _is_sound(report):
            files.write_file(directory / CHECKPOINT, data)
            files.sync()
    finally:
        if not _is_sound(report):
            for tile in written:
                files.path(tile).unlink(missing_ok=True)
        for leftover in scratch.iterdir():
            leftover.unlink()
        scratch.rmdir()
    return report


def _is_sound(report: Report) -> bool:
    return report.passed("integrity") and report.passed("signatures")


def _is_pruned(tile: Tile, end: int) -> bool:
    return tile.level == ENTRIES and (tile.number + 1) * TILE_WIDTH <= end


def _shown(directory: Path) -> SignedCheckpoint | None:
    try:
        return parse_signed_checkpoint(read_regular(directory / CHECKPOINT, MAX_NOTE_SIZE))
    except FileNotFoundError:
        return None


def _copy(
    log: RemoteLog, files: TileDirectory, names: list[Tile], written: list[Tile], progress: Progress
) -> None:
    wanted = iter([t for t in names if not {t.path, t.full.path} & _present(files, t)])
    coming: deque[tuple[Tile, Future[tuple[Tile, bytes] | None]]] = deque()
    done = 0
    while True:
        while len(coming) < _WINDOW and (tile := next(wanted, None)) is not None:
            coming.append((tile, log.later(tile)))
        if not coming:
            break
        tile, future = coming.popleft()
        found = future.result()
        if found is None:
            msg = f"tile/{tile.path} is missing at the source"
            raise WebError(msg)
        files.write(*found)
        written.append(found[0])
        if found[0].width == TILE_WIDTH:
            files.remove_partials(found[0])
        done += 1
        progress(done, len(names))
    files.sync()


def _present(files: TileDirectory, tile: Tile) -> set[str]:
    return {one.path for one in (tile, tile.full) if files.path(one).exists()}
