"""The directory of a running suite: its lock, its sockets, its status.

`<state>/run` belongs to one `weaver up` at a time. What lies there is gone when that ends; what a
killed one left behind is replaced by the next. It refuses to share.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST_SOCKET_PATH = 100
"""What fits into a socket address everywhere, with some room: Linux takes 107 bytes, macOS 103."""

LONGEST_SOCKET_NAME = "gateway.sock"


class BusyError(Exception):
    """Another `weaver up` uses the state directory."""


class RunDirectory:
    """What lies below `<state>/run` while the suite runs.

    Args:
        state: the state directory.
    """

    def __init__(self, state: Path) -> None:
        """See the class."""
        self.state = state
        self.path = (state / "run").absolute()
        self.sockets = self.path
        longest = self.path / LONGEST_SOCKET_NAME
        if len(os.fsencode(longest)) > LONGEST_SOCKET_PATH:
            digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:12]
            self.sockets = Path(tempfile.gettempdir()) / f"weaver-{os.getuid()}-{digest}"

    @property
    def status(self) -> Path:
        """The file that says which processes and ports there are."""
        return self.path / "status.json"

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, empty at first, and remove what lies in it at the end.

        Raises:
            BusyError: another process holds it.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        _private(self.path)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(lock)
            try:
                self.clear()
                _private(self.sockets)
                yield
            finally:
                self.clear()
                os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def publish(self, status: Mapping[str, Any]) -> None:
        """Write the status, whole: a reader sees the last one or this one."""
        draft = self.path / "status.new"
        draft.write_text(json.dumps(status, indent=2) + "\n")
        draft.replace(self.status)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(lock, 32, 0).decode().strip() or "unknown"
            msg = (
                f"another `weaver up` (process {holder}) already uses {self.state}: "
                "stop it, or set WEAVER_STATE_DIR to another directory."
            )
            raise BusyError(msg) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)

    def clear(self) -> None:
        """Remove everything but the lock, which another process may be waiting for."""
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
        if self.sockets != self.path and self.sockets.is_dir():
            shutil.rmtree(self.sockets)


def listening(state: Path) -> Mapping[str, str]:
    """Return the addresses of the `weaver up` that uses a state directory; none when none does.

    By the variable that sets each, so that other commands find a suite whose variables they lack.
    """
    try:
        found = json.loads(RunDirectory(state).status.read_bytes())["addresses"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _private(directory: Path) -> None:
    """Make a directory that is ours alone, or refuse one that is not.

    Raises:
        BusyError: somebody else owns it.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if directory.is_symlink() or found.st_uid != os.getuid():
        msg = f"{directory} belongs to somebody else: remove it, or set WEAVER_STATE_DIR."
        raise BusyError(msg)
    directory.chmod(0o700)
