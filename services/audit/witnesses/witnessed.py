"""Where cosigned checkpoints lie: the newest one that the quorum cosigned, and a few older ones.

The log's own `checkpoint` moves on several times a second and cosigning is slower, so the newest
checkpoint with a quorum has a file of its own, `checkpoint.witnessed`, in the same format. When the
log rests, `checkpoint` itself carries the lines.
"""

import os
from pathlib import Path

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.history import History
from services.audit.note import NoteError
from services.common.files import sync_directory


class Witnessed:
    """Keeps the newest checkpoint that the quorum cosigned.

    Args:
        path: the file that outsiders read.
        scratch: where it is made before it is renamed; on the same file system.
        history: gets at most one a minute.
    """

    def __init__(self, path: Path, scratch: Path, history: History) -> None:
        """See the class."""
        self._path = path
        self._temporary = scratch / "witnessed"
        self._history = history
        self.newest = read_witnessed(path)

    def keep(self, signed: SignedCheckpoint, now: float) -> None:
        """Keep a checkpoint unless a larger one is there.

        Raises:
            OSError: the disk refuses.
        """
        if self.newest is not None and signed.checkpoint.size < self.newest.checkpoint.size:
            return
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(str(signed.note).encode())
            file.flush()
            os.fsync(file.fileno())
        self._temporary.rename(self._path)
        sync_directory(self._path.parent)
        self.newest = signed
        self._history.take(signed, now)


def read_witnessed(path: Path) -> SignedCheckpoint | None:
    """Return the checkpoint of the file; None when there is none that can be read.

    Nothing depends on it but what it says itself: the witnesses are asked again.
    """
    try:
        return parse_signed_checkpoint(path.read_bytes())
    except (OSError, NoteError):
        return None
