"""A machine burns down with everything on it, and another takes its place."""

import json
import shutil
import sqlite3
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from services.cli.backup.snapshot import Session
from services.common.valkey import Address
from tests.e2e.conftest import RunningSuite
from tests.fakes.operated import Operated

LIMITED = {"WEAVER_RATELIMIT_TOKENS_PER_DAY": "1000000", "WEAVER_AUDIT_PRINCIPAL": "pseudonym"}
KEPT = "of the night before"


def client(suite: RunningSuite, *roles: str) -> httpx.Client:
    words = [word for role in roles for word in ("--role", role)]
    token = suite.weaver("token", "--subject", "alice", *words).stdout.strip()
    return httpx.Client(
        base_url=suite.url,
        verify=ssl.create_default_context(cafile=suite.ca),
        headers={"authorization": f"Bearer {token}"},
        timeout=20,
    )


def ask(calling: httpx.Client) -> str:
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}]}
    reply = calling.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-request-id"]


def records(calling: httpx.Client, request: str) -> list[dict[str, Any]]:
    reply = calling.get("/v1/audit/records", params={"request_id": request})
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["records"]
    return found


def store_of(suite: RunningSuite) -> Session:
    return Session(Address(unix_socket=suite.state_dir / "run" / "valkey.sock"), 5.0)


def test_a_machine_that_burned_down_is_brought_back(tmp_path: Path) -> None:
    """Store with limits, signing keys, log and side store; the log goes on and verifies."""
    tmp_path.chmod(0o700)
    first = RunningSuite("up", LIMITED)
    try:
        operator = Operated(first, tmp_path)
        with client(first, "user") as alice:
            request = ask(alice)
        store = store_of(first)
        store.ask("SET", "somebody's api key", KEPT)
        accounts = _accounts(store)
        store.close()
        assert accounts
        operator.do_first_duties(tmp_path)
        fingerprints = _fingerprints(first)
    finally:
        first.stop()
    assert not first.state_dir.exists()

    state = tmp_path / "new-machine"
    restored = {**operator.environment, "WEAVER_STATE_DIR": str(state)}
    _typed(
        operator,
        restored,
        f"weaver backup restore keys --output {state}/keys",
        f'weaver audit restore --from "$WEAVER_ARCHIVE_TARGET" --log {state}/audit/log '
        f"--keys {state}/keys/log.keys",
        f"weaver backup restore side-store --log {state}/audit/log",
        place=tmp_path,
    )
    second = RunningSuite("up", {**LIMITED, "WEAVER_STATE_DIR": str(state)})
    second.state_dir = state
    try:
        store = store_of(second)
        assert store.ask("GET", "somebody's api key") is None
        _typed(operator, second.environment, "weaver backup restore redis", place=tmp_path)
        assert store.ask("GET", "somebody's api key") == KEPT
        assert accounts <= _accounts(store)
        store.close()
        with client(second, "user") as alice:
            found = records(alice, request)
            assert len(found) == 2  # Its intent and its outcome.
            assert ask(alice) != request
            index = _index_of(found)
            key = alice.get(f"/v1/audit/records/{index}/commitment_key")
            assert key.status_code == 200, key.text
        assert _fingerprints(second) == fingerprints
        verified = second.weaver("audit", "verify", "--no-remember", timeout=60)
        assert verified.returncode == 0, verified.stdout
        assert _damaged(state) == []
    finally:
        second.stop()
        shutil.rmtree(state, ignore_errors=True)


def _typed(operator: Operated, environment: Mapping[str, str], *lines: str, place: Path) -> None:
    path = operator.environment["PATH"]
    operator.environment = {**operator.environment, **environment, "PATH": path}
    done = operator.shell("\n".join(lines), place)
    assert done.returncode == 0, done.stdout + done.stderr


def _accounts(store: Session) -> set[bytes]:
    """Return the accounts of callers; they live for the day."""
    reply = store.ask_raw("KEYS", "wrl:{*}")
    assert isinstance(reply, list)
    return {key for key in reply if isinstance(key, bytes) and b"replicas" not in key}


def _fingerprints(suite: RunningSuite) -> set[str]:
    listed = json.loads(suite.weaver("keys", "list", "--json", timeout=60).stdout)
    return {key["fingerprint"] for key in listed["keys"] if key["state"] == "active"}


def _index_of(found: list[dict[str, Any]]) -> int:
    for record in found:
        if "index" in record:
            return int(record["index"])
    message = f"no index in {found}"
    raise AssertionError(message)


def _damaged(state: Path) -> list[str]:
    place = state / "audit" / "log.secrets"
    for name in ("callers.db", "texts.db"):
        with sqlite3.connect(place / name) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()
    return [path.name for path in place.glob("*.damaged-*")]
