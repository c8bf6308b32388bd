"""A store of our own that holds a snapshot for a moment: to prove it, or to pour it into another.

It listens on a Unix socket in a directory for us alone, writes nothing, and is gone with this
process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.cli import bound, programs
from services.cli.backup.snapshot import Session, SnapshotError
from services.common.valkey import Address

SNAPSHOT = "dump.rdb"
_LOADS_WITHIN_S = 3_600.0
_POLL_S = 0.05


@contextlib.contextmanager
def private_directory() -> Iterator[Path]:
    """Return a directory for us alone, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="weaver-restore-") as name:
        Path(name).chmod(0o700)
        yield Path(name)


def write(data: Iterable[bytes], path: Path) -> int:
    """Write data into a new file for its owner alone, durably; return how much it is.

    Raises:
        OSError: the file is there, or the disk refuses.
    """
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in data:
                size += file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return size


@contextlib.contextmanager
def loaded(directory: Path) -> Iterator[Session]:
    """Load the snapshot in a directory into a store, and return a session with it.

    Raises:
        SnapshotError: there is no server here, or it refuses the snapshot.
    """
    try:
        server = programs.valkey()
    except programs.MissingToolError as error:
        raise SnapshotError(str(error)) from None
    socket, log = directory / "store.sock", directory / "store.log"
    options = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"]
    options += ["--dir", str(directory), "--dbfilename", SNAPSHOT, "--appendonly", "no"]
    options += ["--save", "", "--logfile", str(log), "--enable-debug-command", "no"]
    wrapper = [sys.executable, "-I", "-S", str(Path(bound.__file__)), str(os.getpid())]
    process = subprocess.Popen(  # noqa: S603 - the wheel's own server
        [*wrapper, str(server), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", "")},
        start_new_session=True,
    )
    try:
        opened = _until_loaded(process, Address(unix_socket=socket), log)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.wait()


def _until_loaded(process: "subprocess.Popen[bytes]", place: Address, log: Path) -> Session:
    end = time.monotonic() + _LOADS_WITHIN_S
    opened: Session | None = None
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(SnapshotError):
            opened = opened or Session(place, _LOADS_WITHIN_S)
            if "loading:0" in str(opened.ask("INFO", "persistence")):
                return opened
        time.sleep(_POLL_S)
    if opened is not None:
        opened.close()
    raise SnapshotError(_why(log))


def _why(log: Path) -> str:
    said = log.read_text(errors="replace").strip().split("\n")[-3:] if log.exists() else []
    return f"a store does not load the snapshot: {' / '.join(said) or 'it did not start'}"
