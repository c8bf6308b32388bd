"""Checkpoints that were published, a few of the many, so that a later log can be held to them.

The file lies beside the log, one JSON object a line. It gets at most one checkpoint a minute and
the last of each run; a verification looks for each of them in the tree. As they grow old they are
thinned out: all of the last day, one an hour of the last 30 days, one a day of three years, then
one in 30 days. The first and the last always stay.
"""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.note import NoteError
from services.audit.verification.inventory import NotAFileError, read_regular
from services.common.files import replace_file

_EVERY_S = 60.0
_MAX_SIZE = 64 * 1024 * 1024
_HOUR_S = 3_600.0
_DAY_S = 24 * _HOUR_S
_MONTH_S = 30 * _DAY_S
_TIERS = ((_DAY_S, 0.0), (_MONTH_S, _HOUR_S), (36 * _MONTH_S, _DAY_S))
"""Of checkpoints younger than the first, one in each of the second is kept: all of a day's."""

_THIN_EVERY = 1_440
"""After so many new lines, and after the first of a run, it is looked whether that is due."""

_WORTH_IT = 64
"""The fewest lines for which the file is written anew."""


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    time: float
    checkpoint: str


class History:
    """Writes checkpoints down as they are published.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._path = path
        self._written = float("-inf")
        self._last: _Line | None = None
        self._appended = 0
        self._cut_torn_line()

    def take(self, signed: SignedCheckpoint, now: float) -> None:
        """Take note of a published checkpoint.

        Raises:
            OSError: the disk refuses.
        """
        self._last = _Line(now, str(signed.note))
        if not 0 <= now - self._written < _EVERY_S:  # The clock may have gone back.
            self.flush()

    def flush(self) -> None:
        """Write the newest checkpoint down, if it is not yet.

        Raises:
            OSError: the disk refuses.
        """
        if self._last is None:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            _append(descriptor, msgspec.json.encode(self._last) + b"\n", size)
        finally:
            os.close(descriptor)
        self._written = now = self._last.time
        self._last = None
        self._appended += 1
        if self._appended % _THIN_EVERY == 1:
            self._thin(now)

    def _thin(self, now: float) -> None:
        """Let go of what is too many of the older checkpoints.

        Raises:
            OSError: the disk refuses; the file is as it was.
        """
        lines = self._path.read_bytes().splitlines(keepends=True)
        kept = thinned(lines, now)
        if len(lines) - len(kept) < _WORTH_IT:
            return
        replace_file(self._path, b"".join(kept))

    def _cut_torn_line(self) -> None:
        """Cut off a last line that breaks off, so that the next one stands alone."""
        if self._path.exists():
            data = self._path.read_bytes()
            os.truncate(self._path, data.rfind(b"\n") + 1)


def thinned(lines: Sequence[bytes], now: float) -> list[bytes]:
    """Return the lines that stay, in their order: of each span of time the first.

    What cannot be read stays, for a verification to name. Doing it again changes nothing.

    Args:
        lines: of the file.
        now: the time.
    """
    kept = []
    spans: set[tuple[float, float]] = set()
    for position, line in enumerate(lines):
        span = _span(line, now)
        if span is None or span not in spans or position == len(lines) - 1:
            kept.append(line)
        if span is not None:
            spans.add(span)
    return kept


def _span(line: bytes, now: float) -> tuple[float, float] | None:
    """Return the span of time of which one line is enough; None when each stays."""
    try:
        time = msgspec.json.decode(line, type=_Line).time
    except (msgspec.DecodeError, RecursionError):
        return None
    every = next((every for age, every in _TIERS if now - time < age), _MONTH_S)
    return (every, time // every) if every else None


def _append(descriptor: int, line: bytes, size: int) -> None:
    """Append a line durably, or leave the file as it was."""
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301 - undone below
        os.fsync(descriptor)
    except OSError:
        # Where this fails too, the next start cuts the line off.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def read_history(path: Path) -> list[SignedCheckpoint]:
    """Return the checkpoints in a file, each size once; none when there is no file.

    A last line that breaks off is a write that did, and is skipped.

    Raises:
        NoteError: a line is damaged.
    """
    try:
        data = read_regular(path, _MAX_SIZE)
    except (FileNotFoundError, PermissionError):
        return []
    except NotAFileError as error:
        msg = f"{path}: {error.strerror}"
        raise NoteError(msg) from None
    if len(data) > _MAX_SIZE:
        msg = f"{path}: it has over {_MAX_SIZE} bytes"
        raise NoteError(msg)
    lines = data.split(b"\n")
    checkpoints: dict[str, SignedCheckpoint] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            note = msgspec.json.decode(line, type=_Line).checkpoint
            checkpoints[note] = parse_signed_checkpoint(note.encode())
        except (msgspec.DecodeError, NoteError, RecursionError) as error:
            msg = f"{path}, line {number}: {error}"
            raise NoteError(msg) from None
    return list(checkpoints.values())
