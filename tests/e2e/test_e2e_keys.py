"""Signing keys of a running suite: rotated without a restart, and in one process alone."""

import asyncio
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from services.audit.keys import files as keyfiles
from services.audit.keys import signers as keys
from services.audit.keys.signers import Signer, load_rsa
from tests.e2e.clients import chat, http
from tests.e2e.conftest import wait_until

ROTATE = ("keys", "rotate", "--bits", "2048", "--reason", "a test of it", "--json")


def listed(suite: Any) -> dict[str, Any]:
    done = suite.weaver("keys", "list", "--json")
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


async def dependencies(suite: Any) -> dict[str, str]:
    async with http(suite) as client:
        answer = await client.get("/health")
        assert answer.status_code == 200, answer.text
        found: dict[str, str] = answer.json()["dependencies"]
        return found


async def test_keys_rotate_while_calls_go_on(own_suite: Any, tmp_path: Path) -> None:
    """The service signs with new keys, the old ones endorsed them, nothing was refused."""
    before = {key["fingerprint"] for key in listed(own_suite)["keys"]}
    old_public = tmp_path / "old.pem"
    old_public.write_text(listed(own_suite)["keys"][0]["public_key_pem"])
    async with http(own_suite) as client:
        assert (await client.post("/v1/chat/completions", json=chat("before"))).is_success
        done = own_suite.weaver(*ROTATE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["taken"] is True
        assert (await client.post("/v1/chat/completions", json=chat("after"))).is_success
    after = listed(own_suite)["keys"]
    assert {key["fingerprint"] for key in after if key["state"] == "grace"} == before
    assert all(key["endorsement"] for key in after if key["state"] == "active")
    await asyncio.sleep(1.2)
    done = own_suite.weaver("audit", "verify")
    assert done.returncode == 0, done.stdout
    found = own_suite.weaver("audit", "list", "--type", "key_rotation", "--json").stdout
    said = [json.loads(line)["record"]["attributes"] for line in found.splitlines()]
    assert {one["reason"] for one in said if one["action"] == "rotated"} == {"a test of it"}
    openssl_verifies(own_suite)
    # An auditor at a distance, who kept the old public key and nothing else, goes on.
    done = own_suite.weaver("token", "--subject", "eve", "--role", "auditor")
    own_suite.environment["WEAVER_API_KEY"] = done.stdout.strip()
    own_suite.environment["WEAVER_AUDITOR_DIR"] = str(tmp_path / "auditor")
    distant = ("audit", "verify", own_suite.url, "--keys", str(old_public), "--ca")
    done = own_suite.weaver(*distant, str(own_suite.ca))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "endorsed" in done.stderr


def openssl_verifies(suite: Any) -> None:
    """`openssl dgst` verifies the RSA line of the checkpoint as it lies on disk."""
    log = suite.state_dir / "audit" / "log"
    script = """
        sed '/^$/,$d' "$1/checkpoint" > text
        sed -n 's/^— [^ ]* //p' "$1/checkpoint" | head -1 | base64 -d | tail -c +5 > signature
        openssl dgst -sha256 -verify "$2" -signature signature text
    """
    public = suite.state_dir / "keys" / keyfiles.RSA_PUBLIC_FILE
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(log), str(public)],
        cwd=suite.state_dir,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Verified OK\n", done.stderr


async def test_a_bad_key_shows_in_health_and_never_stops_the_service(own_suite: Any) -> None:
    path = own_suite.state_dir / "keys" / keyfiles.RSA_FILE
    good = path.read_bytes()
    keyfiles.write(path, good[:500], 0o600, replace=True)

    async def state() -> str | None:
        return (await dependencies(own_suite)).get("audit.key_rotation")

    end = time.monotonic() + 15
    while await state() != "down":
        assert time.monotonic() < end
        await asyncio.sleep(0.2)
    async with http(own_suite) as client:
        assert (await client.get("/health")).json()["status"] == "degraded"
        assert (await client.post("/v1/chat/completions", json=chat("still"))).is_success
    keyfiles.write(path, good, 0o600, replace=True)
    while await state() != "ok":
        assert time.monotonic() < end + 15
        await asyncio.sleep(0.2)


@pytest.fixture
def private_key(tmp_path: Path) -> bytes:
    return keys.private_pem(keys.generate_rsa(2048))


def test_a_private_key_in_a_variable_reaches_the_audit_process_alone(
    start_suite: Any, private_key: bytes
) -> None:
    """The private key lives in the audit service alone."""
    suite = start_suite("separate", {"WEAVER_TELEMETRY_SIGNING_KEY": private_key.decode()})
    pids = suite.pids
    has = {
        name: b"WEAVER_TELEMETRY_SIGNING_KEY=" in Path(f"/proc/{pid}/environ").read_bytes()
        for name, pid in pids.items()
    }
    assert has.pop("audit") is True
    assert set(has) >= {"gateway", "model", "ratelimit", "envoy", "valkey"}
    assert not any(has.values()), has
    body = private_key.split(b"\n")[15]
    for path in suite.state_dir.rglob("*"):
        assert not path.is_file() or body not in path.read_bytes(), path


@pytest.mark.parametrize("told", ["suite", "audit"])
def test_a_hangup_makes_the_audit_service_look_at_once(
    start_suite: Any, topology: str, private_key: bytes, tmp_path: Path, told: str
) -> None:
    path = tmp_path / "signing-key"
    keyfiles.write(path, keys.private_pem(keys.generate_rsa(2048)), 0o600, replace=False)
    environment = {
        "WEAVER_TELEMETRY_SIGNING_KEY_FILE": str(path),
        "WEAVER_TELEMETRY_KEY_POLL_SECONDS": "3600",
    }
    suite = start_suite(topology, environment)
    before = suite.pids
    keyfiles.write(path, private_key, 0o600, replace=True)
    os.kill(before["audit"] if told == "audit" else suite.process.pid, signal.SIGHUP)
    new = Signer("x", load_rsa(private_key, "x", production=False)).verifier.fingerprint
    wait_until(lambda: listed(suite)["keys"][-1]["fingerprint"] == new, 10)
    wait_until(lambda: listed(suite)["keys"][-1]["endorsement"], 10)
    assert suite.pids == before
