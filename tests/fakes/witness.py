"""A witness in a process of its own."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any


class WitnessProcess:
    """`weaver audit witness` as an auditor runs it."""

    def __init__(self, state: Path, *logs: str, options: tuple[str, ...] = ()) -> None:
        self.state = state
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [sys.executable, "-m", "services.cli", "audit", "witness", "--json"]
        self._command += [part for log in logs for part in ("--log", log)]
        self._command += ["--state", str(state), "--listen", f"127.0.0.1:{self.port}", *options]
        self.start()

    def start(self) -> None:
        """Start it on what it stored."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the witness did not start"
        self.ready: dict[str, Any] = json.loads(line)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status

    def post(self, body: bytes) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", "/add-checkpoint", body)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
