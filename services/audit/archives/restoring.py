"""Restores a log from an archive: fetched, verified whole, and only then put in its place."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.audit.archives.archived import HISTORIES, KEYS, LOG, PRIVATE
from services.audit.archives.pruning import recorded_pruning
from services.audit.archives.targets import Target
from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.history import read_history
from services.audit.keys.archive import ArchiveError
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.note import NoteError
from services.audit.recovery import accept
from services.audit.tiles import TileDirectory, tiles_of
from services.audit.verification.inventory import WITNESSED, LogDirectory
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.common.files import sync_directory

Progress = Callable[[int, int], None]


class RestoreError(Exception):
    """The log cannot be restored; the message says why."""


@dataclass
class Restored:
    """What was restored.

    Attributes:
        report: the verification of it; only a good log is put in its place.
        pruned: records whose bundles the archive does not have.
    """

    report: Report
    pruned: int = 0


def restore(target: Target, log: Path, keys: Path | None, progress: Progress) -> Restored:
    """Bring the log of an archive to a directory where there is none.

    Args:
        target: the archive.
        log: where the log shall lie.
        keys: whom to trust; None for the keys that lie in the archive.
        progress: is told how many files of how many are there.

    Raises:
        RestoreError: the place is taken, or the archive has no log.
        TargetError: the archive does not answer.
    """
    layout = Layout(log)
    for path in (layout.log, layout.private, layout.keys):
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            msg = f"{path} is there already; a log is restored where there is none"
            raise RestoreError(msg)
    place = layout.log.with_name(f"{layout.log.name}.restoring")
    shutil.rmtree(place, ignore_errors=True)
    try:
        restored = _fetch(target, place, keys, progress)
        if restored.report.good:
            _put(place, layout)
    except OSError as error:
        msg = f"{error.filename or place}: {error.strerror}"
        raise RestoreError(msg) from None
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return restored


def _fetch(target: Target, place: Path, keys: Path | None, progress: Progress) -> Restored:
    staged = Layout(place / LOG)
    staged.log.mkdir(parents=True)
    staged.private.mkdir(mode=0o700)
    checkpoint = _needed(target, f"{LOG}/checkpoint")
    try:
        signed = parse_signed_checkpoint(checkpoint)
    except NoteError as error:
        msg = f"{target.name}/{LOG}/checkpoint: {error}"
        raise RestoreError(msg) from None
    staged.keys.write_bytes(_needed(target, KEYS))
    for name in HISTORIES:
        data = target.read(f"{PRIVATE}/{name}")
        if data is not None:
            (staged.private / name).write_bytes(data)
    files = TileDirectory(staged.log, staged.private)
    tiles = list(tiles_of(signed.checkpoint.size))
    for number, tile in enumerate(tiles, 1):
        data = target.read(f"{LOG}/tile/{tile.path}")
        if data is not None:
            files.write(tile, data)
        progress(number, len(tiles))
    witnessed = target.read(f"{LOG}/{WITNESSED}")
    if witnessed is not None:
        files.write_file(staged.log / WITNESSED, witnessed)
    files.write_file(staged.checkpoint, checkpoint)
    files.sync()
    try:
        trusted = load_keys(keys or staged.keys)
        history = read_history(staged.history)
    except (ArchiveError, NoteError) as error:
        raise RestoreError(str(error)) from None
    pruned = recorded_pruning(LogDirectory(staged.log))
    report = verify(staged.log, trusted, history=history, pruned=pruned)
    if report.good:
        accept(staged, signed)
    return Restored(report, report.pruned)


def _needed(target: Target, path: str) -> bytes:
    data = target.read(path)
    if data is None:
        msg = f"{target.name} holds no archive of a log: there is no {path}"
        raise RestoreError(msg)
    return data


def _put(place: Path, layout: Layout) -> None:
    """Move what was verified to where the service looks; the log itself comes last."""
    staged = Layout(place / LOG)
    for source, path in (
        (staged.private, layout.private),
        (staged.keys, layout.keys),
        (staged.log, layout.log),
    ):
        if path.is_dir():
            path.rmdir()
        source.rename(path)
    sync_directory(layout.log.parent)
