"""Where the parts of a log lie, and the lock that keeps it to one writer.

The log's directory holds what outsiders verify: `checkpoint` and `tile/`. What is ours lies beside
it, in `<log>.private` (write-ahead log, index, lock), the archive of public keys in `<log>.keys`,
and the side store, which is backed up apart, in `<log>.secrets`.
"""

import fcntl
import os
import socket
from pathlib import Path

from services.common.files import sync_directory

_LOCK_TEXT = 8_192


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
        self.side_store = self.log.with_name(f"{self.log.name}.secrets")
        self.index = self.private / "index.db"
        self.accepted = self.private / "accepted"
        self.identities = self.private / "identities"
        self.history = self.private / "checkpoints.jsonl"

    def create(self) -> None:
        """Make the directories that are missing, durably.

        Raises:
            LayoutError: a path is not a directory, not writable, or on another file system.
        """
        if self.log.exists() and not self.log.is_dir():
            msg = f"WEAVER_AUDIT_PATH: {self.log} is a file; the log is a directory. Name another."
            raise LayoutError(msg)
        try:
            make_directory(self.log, 0o755)
            for directory in (self.private, self.wal, self.scratch):
                make_directory(directory, 0o700)
        except OSError as error:
            path = error.filename or self.log
            msg = f"WEAVER_AUDIT_PATH: cannot make {path}: {error.strerror}."
            raise LayoutError(msg) from None
        if self.log.stat().st_dev != self.private.stat().st_dev:
            msg = (
                f"WEAVER_AUDIT_PATH: {self.log} is a mount point. What lies beside it "
                f"({self.private}) must be on the same volume: mount the parent directory."
            )
            raise LayoutError(msg)

    def acquire(self) -> int:
        """Take the lock and return its descriptor; closing it gives the lock back.

        The lock is the kernel's: it ends with its process, however that ends, and holds between
        containers on one machine. What the file says is for people, and lets a copy be told from
        the log that it was made of.

        Raises:
            LayoutError: another process writes this log, or the log that this is a copy of.
            OSError: the lock cannot be had for another reason.
        """
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            holder = os.pread(descriptor, _LOCK_TEXT, 0).decode(errors="replace").split("\n")
            if not _take(descriptor, fcntl.LOCK_EX):
                msg = (
                    f"WEAVER_AUDIT_PATH: another process (pid {holder[0] or 'unknown'}"
                    f"{_on_host(holder)}) writes {self.log}; a log has one writer. Stop it, or "
                    f"name another directory."
                )
                raise LayoutError(msg)  # noqa: TRY301 - the descriptor is closed below
            self._refuse_copy(descriptor, holder)
            text = f"{os.getpid()}\n{socket.gethostname()}\n{self.lock}\n".encode()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text, 0)
            for leftover in self.scratch.iterdir():
                leftover.unlink()
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _refuse_copy(self, descriptor: int, holder: list[str]) -> None:
        """Refuse a directory that was copied from one that a process here still writes.

        Both would sign, under one name, logs that differ: a fork.
        """
        original = Path(holder[2]) if len(holder) > 2 else self.lock  # noqa: PLR2004 - pid, host, path
        if original == self.lock:
            return
        try:
            other = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return  # It was moved, or restored on another machine.
        try:
            if os.path.sameopenfile(descriptor, other) or _take(other, fcntl.LOCK_SH):
                return
        finally:
            os.close(other)
        msg = (
            f"WEAVER_AUDIT_PATH: {self.log} is a copy of a log that a process (pid "
            f"{holder[0]}{_on_host(holder)}) still writes, as its lock {original} says. "
            f"Two writers would fork it: verify the copy, or stop the process."
        )
        raise LayoutError(msg)


def make_directory(directory: Path, mode: int) -> None:
    """Make a directory and what is missing above it; their names survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent, 0o755)
    directory.mkdir(mode, exist_ok=True)
    sync_directory(directory.parent)


def _take(descriptor: int, kind: int) -> bool:
    """Take a lock without waiting; say whether it was free."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _on_host(holder: list[str]) -> str:
    """Say on which host a lock was taken, where that is another one, such as a container."""
    host = holder[1] if len(holder) > 1 else ""
    return f" on {host}" if host and host != socket.gethostname() else ""
