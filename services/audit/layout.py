"""Where the parts of a log lie, and the lock that keeps it to one writer.

The log's directory holds what outsiders verify: `checkpoint` and `tile/`. What is ours lies beside
it, in `<log>.private` (write-ahead log, side store, index, lock), and the archive of public keys in
`<log>.keys`.
"""

import fcntl
import os
from pathlib import Path


class LayoutError(Exception):
    """The log's directory cannot be used; the message is for operators."""


class Layout:
    """The paths of one log.

    Args:
        log: the log's directory.
    """

    def __init__(self, log: Path) -> None:
        """See the class."""
        self.log = log.resolve()
        self.private = self.log.with_name(f"{self.log.name}.private")
        self.keys = self.log.with_name(f"{self.log.name}.keys")
        self.checkpoint = self.log / "checkpoint"
        self.wal = self.private / "wal"
        self.scratch = self.private / "scratch"
        self.lock = self.private / "lock"
        self.side_store = self.private / "commitment-keys"
        self.index = self.private / "index.db"
        self.accepted = self.private / "accepted"
        self.history = self.private / "checkpoints.jsonl"

    def create(self) -> None:
        """Make the directories that are missing.

        Raises:
            LayoutError: a path is not a directory, not writable, or on another file system.
        """
        if self.log.exists() and not self.log.is_dir():
            msg = f"WEAVER_AUDIT_PATH: {self.log} is a file; the log is a directory. Name another."
            raise LayoutError(msg)
        try:
            self.log.mkdir(parents=True, exist_ok=True)
            for directory in (self.private, self.wal, self.scratch):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            msg = f"WEAVER_AUDIT_PATH: cannot make {error.filename}: {error.strerror}."
            raise LayoutError(msg) from None
        if self.log.stat().st_dev != self.private.stat().st_dev:
            msg = (
                f"WEAVER_AUDIT_PATH: {self.log} is a mount point. What lies beside it "
                f"({self.private}) must be on the same volume: mount the parent directory."
            )
            raise LayoutError(msg)
        for leftover in self.scratch.iterdir():
            leftover.unlink()

    def acquire(self) -> int:
        """Take the lock and return its descriptor; closing it gives the lock back.

        Raises:
            LayoutError: another process writes this log.
        """
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            msg = (
                f"WEAVER_AUDIT_PATH: another process (pid {holder}) writes {self.log}; "
                f"a log has one writer. Stop it, or name another directory."
            )
            raise LayoutError(msg) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return descriptor
