"""Witnesses and archives around a running suite, seen through the front door."""

import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from services.audit.keys.signers import Signer, load_ed25519
from tests.e2e.clients import chat, http
from tests.fakes.auditlog import quick_keys
from tests.fakes.witness import WitnessProcess

ORIGIN = "weaver.local/development/audit-0"

Start = Callable[[str, Mapping[str, str]], Any]


async def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not await condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.2)


async def test_witnesses_vouch_for_a_suite_and_their_absence_delays_nobody(
    topology: str, start_suite: Start, tmp_path: Path
) -> None:
    key = quick_keys()[1]
    log_key = Signer(ORIGIN, load_ed25519(key.encode(), "test")).verifier
    witness = WitnessProcess(tmp_path / "witness", str(log_key))
    try:
        lines = [f"log {log_key}", witness.ready["policy_lines"][1]]
        name = lines[1].split()[1]
        policy = tmp_path / "policy"
        policy.write_text("\n".join([*lines, f"quorum {name}", ""]))
        suite = start_suite(
            topology,
            {"WEAVER_AUDIT_ED25519_KEY": key, "WEAVER_AUDIT_WITNESS_POLICY": str(policy)},
        )
        async with http(suite) as client:
            assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200

            async def cosigned() -> bool:
                answer = await client.get("/v1/audit/checkpoint", params={"witnessed": "true"})
                return answer.status_code == 200 and int(answer.text.split("\n")[1]) > 4

            await until(cosigned)
            health = (await client.get("/health")).json()
            assert health["dependencies"][f"audit.witness:{name}"] == "ok"
            verified = suite.weaver("audit", "verify", "--policy", str(policy), "--json")
            assert verified.returncode == 0, verified.stdout
            assert json.loads(verified.stdout)["vouching"]["quorum"]
            archived = suite.weaver("audit", "archive", "--to", f"file://{tmp_path}/archive")
            assert archived.returncode == 0, archived.stdout + archived.stderr
            copy = suite.weaver(
                "audit", "verify", f"{tmp_path}/archive/log", "--policy", str(policy), "--json"
            )
            assert copy.returncode == 0, copy.stdout
            witness.stop(signal.SIGKILL)
            for _ in range(3):
                assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200

            async def degraded() -> bool:
                body = (await client.get("/health")).json()
                return bool(body["dependencies"][f"audit.witness:{name}"] == "down")

            await until(degraded)
            health = (await client.get("/health")).json()
            assert (health["status"], health["ready"]) == ("degraded", True)
    finally:
        if witness.process.poll() is None:
            witness.stop()
