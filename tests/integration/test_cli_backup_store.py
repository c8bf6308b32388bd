"""The store, backed up, destroyed, restored: a real Valkey, with a password and data that ends."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.backup import age_keys, scratch
from services.cli.backup.snapshot import Session, SnapshotError, session
from services.common.valkey import Address
from tests.fakes.valkey import Valkey

PASSWORD = "of the store"  # pragma: allowlist secret
BINARY = bytes(range(256))


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    place = tmp_path / "v"
    place.mkdir()
    with Valkey(place, "--requirepass", PASSWORD, "--dir", str(place)) as running:
        yield running


@pytest.fixture
def identity(tmp_path: Path) -> tuple[Path, str]:
    text, recipient = age_keys.generate()
    path = tmp_path / "identity"
    path.write_text(f"# a comment\n{text}\n")
    path.chmod(0o600)
    return path, recipient


def weaver(valkey: Valkey, *arguments: str, password: str = PASSWORD) -> Any:
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_UNIX_SOCKET": str(valkey.socket),
        "REDIS_PASSWORD": password,
        "ENVIRONMENT": "production",
    }
    command = [sys.executable, "-m", "services.cli", "backup", *arguments, "--json"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    document = json.loads(done.stdout) if done.stdout else {"error": done.stderr}
    return {**document, "status": done.returncode}


def open_session(valkey: Valkey) -> Session:
    return Session(Address(unix_socket=valkey.socket, password=PASSWORD), 5.0)


def fill(valkey: Valkey) -> None:
    store = open_session(valkey)
    store.ask("HSET", "limits:default/apikey/alice", "level", "4000", "time", "12")
    store.ask("SET", b"binary\r\n\x00key", BINARY)
    store.ask("SET", "leaves soon", "x", "PX", "600000")
    store.ask("SET", "gone at once", "x", "PX", "1")
    store.ask("SELECT", "3")
    store.ask("SADD", "api-keys", "one", "two")
    store.close()


def test_what_was_in_the_store_is_there_after_it_was_lost(
    valkey: Valkey, identity: tuple[Path, str], tmp_path: Path
) -> None:
    fill(valkey)
    url = f"file://{tmp_path}/backups"
    taken = weaver(valkey, "redis", "--to", url, "--recipient", identity[1])
    assert taken["status"] == 0, taken
    assert taken["noted"]
    valkey.kill()
    (valkey.socket.parent / "dump.rdb").unlink()
    valkey.start()
    store = open_session(valkey)
    assert store.ask("DBSIZE") == 0
    store.ask("HSET", "limits:default/apikey/alice", "level", "1")  # It was written since.
    restored = weaver(valkey, "restore", "redis", "--from", url, "--identity", str(identity[0]))
    assert restored["status"] == 0, restored
    assert restored["kept_keys"] == 1
    assert store.ask_raw("GET", b"binary\r\n\x00key") == BINARY
    assert store.ask("HGET", "limits:default/apikey/alice", "level") == "1"
    assert 0 < int(str(store.ask("PTTL", "leaves soon"))) <= 600_000
    assert store.ask("EXISTS", "gone at once") == 0
    again = weaver(
        valkey, "restore", "redis", "--from", url, "--identity", str(identity[0]), "--replace"
    )
    assert again["status"] == 0
    assert store.ask("HGET", "limits:default/apikey/alice", "level") == "4000"
    store.ask("SELECT", "3")
    assert store.ask("SCARD", "api-keys") == 2
    store.close()


def test_the_file_restores_a_store_with_aof_as_the_page_says(
    valkey: Valkey, identity: tuple[Path, str], tmp_path: Path
) -> None:
    """AOF off at first, then on; with AOF on from the start such a store begins empty."""
    fill(valkey)
    url = f"file://{tmp_path}/backups"
    assert weaver(valkey, "redis", "--to", url, "--recipient", identity[1])["status"] == 0
    valkey.kill()
    for aof, expected in (("yes", 0), ("no", 3)):
        place = tmp_path / f"aof-{aof}"
        place.mkdir()
        rdb = str(place / "dump.rdb")
        opened = ("--identity", str(identity[0]), "--output", rdb)
        assert weaver(valkey, "restore", "redis", "--from", url, *opened)["status"] == 0
        assert Path(rdb).stat().st_mode & 0o777 == 0o600
        options = ("--dir", str(place), "--requirepass", PASSWORD)
        with Valkey(place, *options, "--appendonly", aof) as fresh:
            store = open_session(fresh)
            assert store.ask("DBSIZE") == expected
            if aof == "no":
                store.ask("CONFIG", "SET", "appendonly", "yes")
                while "aof_rewrite_in_progress:1" in str(store.ask("INFO", "persistence")):
                    time.sleep(0.02)
            store.close()
    with Valkey(place, *options, "--appendonly", "yes") as fresh:
        store = open_session(fresh)
        assert store.ask("DBSIZE") == 3
        store.close()


def test_a_store_that_is_in_use_is_copied_whole(
    valkey: Valkey, identity: tuple[Path, str], tmp_path: Path
) -> None:
    store = open_session(valkey)
    store.ask("EVAL", "for i=1,20000 do redis.call('SET', 'k'..i, string.rep('v',100)) end", "0")
    with session(Address(unix_socket=valkey.socket, password=PASSWORD)) as reading:
        pieces = reading.snapshot()
        first = next(pieces)
        store.ask("FLUSHALL")
        place = tmp_path / "held"
        place.mkdir(0o700)
        scratch.write([first, *pieces], place / scratch.SNAPSHOT)
    with scratch.loaded(place) as held:
        assert held.ask("DBSIZE") == 20_000
    store.close()


@pytest.mark.parametrize("position", ["middle", "checksum"])
def test_a_snapshot_that_was_changed_is_noticed_by_the_store_that_loads_it(
    valkey: Valkey, tmp_path: Path, position: str
) -> None:
    fill(valkey)
    with session(Address(unix_socket=valkey.socket, password=PASSWORD)) as reading:
        data = bytearray(b"".join(reading.snapshot()))
    data[len(data) // 2 if position == "middle" else -1] ^= 1
    place = tmp_path / "held"
    place.mkdir(0o700)
    scratch.write([bytes(data)], place / scratch.SNAPSHOT)
    with pytest.raises(SnapshotError, match="does not load"), scratch.loaded(place):
        pass


def test_refusals_say_what_to_do(
    valkey: Valkey, identity: tuple[Path, str], tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/backups"
    sealed = ("--recipient", identity[1])
    wrong = weaver(valkey, "redis", "--to", url, *sealed, password="another")
    assert (wrong["status"], "REDIS_PASSWORD" in wrong["error"]) == (3, True)
    none = weaver(valkey, "redis", "--to", url, *sealed, password="")
    assert (none["status"], "set REDIS_PASSWORD" in none["error"]) == (3, True)
    open_to_all = weaver(valkey, "redis", "--to", url)
    assert (open_to_all["status"], "never written unsealed" in open_to_all["error"]) == (2, True)
    identity[0].chmod(0o644)
    read = weaver(valkey, "restore", "redis", "--from", url, "--identity", str(identity[0]))
    assert (read["status"], "chmod 600" in read["error"]) == (2, True)
    identity[0].chmod(0o600)
    empty = weaver(valkey, "restore", "redis", "--from", url, "--identity", str(identity[0]))
    assert (empty["status"], "no backup of redis" in empty["error"]) == (1, True)
    bucket = weaver(valkey, "redis", "--to", "ftp://x", *sealed)
    assert (bucket["status"], "neither s3://" in bucket["error"]) == (2, True)
    for said in (wrong, none, read):
        assert PASSWORD not in said["error"]
    user = open_session(valkey)
    user.ask("ACL", "SETUSER", "default", "-sync")
    user.close()
    forbidden = weaver(valkey, "redis", "--to", url, *sealed)
    assert (forbidden["status"], "NOPERM" in forbidden["error"]) == (3, True)
