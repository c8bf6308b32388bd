"""Checkpoints that were published, a few of the many, so that a later log can be held to them.

The file lies beside the log, one JSON object a line. It gets at most one checkpoint a minute and
the last of each run; a verification looks for each of them in the tree.
"""

import contextlib
import errno
import os
from pathlib import Path

import msgspec

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.note import NoteError

_EVERY_S = 60.0


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
        self._written = self._last.time
        self._last = None

    def _cut_torn_line(self) -> None:
        """Cut off a last line that breaks off, so that the next one stands alone."""
        if self._path.exists():
            data = self._path.read_bytes()
            os.truncate(self._path, data.rfind(b"\n") + 1)


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
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, PermissionError):
        return []
    checkpoints: dict[str, SignedCheckpoint] = {}
    for number, line in enumerate(lines[:-1], 1):
        try:
            note = msgspec.json.decode(line, type=_Line).checkpoint
            checkpoints[note] = parse_signed_checkpoint(note.encode())
        except (msgspec.DecodeError, NoteError) as error:
            msg = f"{path}, line {number}: {error}"
            raise NoteError(msg) from None
    return list(checkpoints.values())
