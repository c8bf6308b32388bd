"""Processes that are forked from the test, and `strace` holding one of them.

Forking spares each case the second that importing takes. The fork waits until `strace` has it.
"""

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

_SET_PTRACER = 0x59616D61
_ANYONE = ctypes.c_ulong(2**64 - 1)
_LINE = re.compile(r"^(?P<tid>\d+) +(?P<call>\w+)\((?P<rest>.*)$")
_ARGUMENT = re.compile(r'\d+<(?P<held>/[^>]*)>|"(?P<named>/[^"]*)"')
_STRACE = shutil.which("strace") or "strace"
CALLS = (
    "openat,write,pwrite64,fsync,fdatasync,rename,unlink,rmdir,mkdir,ftruncate,truncate,"
    "fallocate,link,linkat,renameat,unlinkat,mkdirat"
)


class Fork:
    """A function in a process of its own; what it writes to its pipe is kept.

    Args:
        work: is called with the descriptor of the pipe.
        held: whether to wait until `release`.
    """

    def __init__(self, work: Callable[[int], None], *, held: bool = False) -> None:
        self._output, output = os.pipe()
        gate, self._gate = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `wait`
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.dup2(self._errors.fileno(), 2)
                ctypes.CDLL(None).prctl(_SET_PTRACER, _ANYONE, 0, 0, 0)
                os.close(self._gate)
                if held:
                    os.read(gate, 1)
                work(output)
                status = 0
            except BaseException:  # noqa: BLE001 - told to the parent
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(output)
        os.close(gate)

    def release(self) -> None:
        """Let it go on."""
        os.write(self._gate, b"x")

    def wait(self) -> tuple[int, list[bytes], str]:
        """Wait for its end; return its status (negative: a signal), its lines, its errors."""
        with os.fdopen(self._output, "rb") as output:
            lines = output.read().split(b"\n")[:-1]
        _, status = os.waitpid(self.pid, 0)
        os.close(self._gate)
        with self._errors as errors:
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        return os.waitstatus_to_exitcode(status), lines, said


class Point(NamedTuple):
    """One system call of a reference run: which, on what, and the how-manieth of these it is."""

    call: str
    path: str
    nth: int

    def __str__(self) -> str:
        """Return what names it in a test."""
        return f"{self.call} {self.path} {self.nth}"


def traced(
    work: Callable[[int], None], options: Sequence[str], output: Path
) -> tuple[int, list[bytes], str]:
    """Run work in a fork under `strace`, and return what `Fork.wait` does."""
    fork = Fork(work, held=True)
    with tempfile.TemporaryFile() as errors:
        strace = subprocess.Popen(
            [_STRACE, "-f", "-o", str(output), *options, "-p", str(fork.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        try:
            while not _attached(fork.pid):
                if strace.poll() is not None:
                    errors.seek(0)
                    msg = f"strace: {errors.read().decode(errors='replace')}"
                    raise RuntimeError(msg)
            fork.release()
            return fork.wait()
        finally:
            if strace.poll() is None:
                try:
                    strace.wait(5)
                except subprocess.TimeoutExpired:
                    strace.send_signal(signal.SIGTERM)
                    strace.wait()


def points(trace: str, root: Path) -> list[Point]:
    """Return every call of a trace that touches what lies below a directory, in order."""
    found: dict[Point, None] = {}
    counts: dict[tuple[str, str, str], int] = {}
    prefix = f"{root}/"
    for line in trace.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        for argument in _ARGUMENT.finditer(match["rest"]):
            path = argument["held"] or argument["named"]
            if path.startswith(prefix):
                key = (match["tid"], match["call"], path)
                counts[key] = counts.get(key, 0) + 1
                found[Point(match["call"], path.removeprefix(prefix), counts[key])] = None
                break
    return list(found)


def _attached(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status
