"""Pseudonyms, captured texts, forgetting and erasing, through the front door and by command."""

import hashlib
import hmac
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from services.cli.development import JWT_KEY
from services.cli.token import mint
from tests.e2e.clients import chat, http
from tests.e2e.conftest import wait_until
from tests.e2e.test_e2e_audit import verify

PRIVATE = {"WEAVER_AUDIT_PRINCIPAL": "pseudonym", "WEAVER_AUDIT_CAPTURE": "redacted"}
PROMPT = "Write to carol@example.com, please"


def token(suite: Any, subject: str, *roles: str) -> str:
    key = (suite.state_dir / "keys" / JWT_KEY).read_bytes()
    return mint(key, subject, "acme", list(roles or ("user",)), 600)


async def get(suite: Any, key: str, path: str, **params: Any) -> Any:
    async with http(suite, key=key) as client:
        return await client.get(f"/v1/audit/{path}", params=params)


async def said(suite: Any, key: str, *, stream: bool) -> tuple[bytes, bytes, str]:
    """Make a call; return what was sent, what came back, and the request's id."""
    body = json.dumps(chat(PROMPT, stream=stream)).encode()
    async with http(suite, key=key) as client:
        answer = await client.post("/v1/chat/completions", content=body)
    assert answer.status_code == 200
    return body, answer.content, answer.headers["x-request-id"]


def in_files(directory: Path, *wanted: bytes) -> list[bytes]:
    """Return which of these stand in a file."""
    data = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return [one for one in wanted if one in data]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_owner_proves_and_reads_a_text_until_it_is_forgotten(
    topology: str, start_suite: Any, stream: bool
) -> None:
    suite = start_suite(topology, PRIVATE)
    alice, bob = token(suite, "alice-7"), token(suite, "bob-8")
    auditor = token(suite, "audrey-9", "auditor")
    body, answer, request_id = await said(suite, alice, stream=stream)

    page = (await get(suite, alice, "records", request_id=request_id)).json()["records"]
    outcome, intent = page
    shown = intent["record"]["principal"]["subject"]
    assert shown == outcome["record"]["principal"]["subject"] != "alice-7"

    # The owner holds the texts against the commitments.
    for entry, kind, text in (
        (intent, "prompt_received", body),
        (outcome, "answer_sent", answer),
    ):
        found = (await get(suite, alice, f"records/{entry['index']}/commitment_key")).json()
        key = bytes.fromhex(found["commitment_key"])
        commitments = {c["kind"]: c["hmac_sha256"] for c in found["record"]["commitments"]}
        assert commitments[kind] == hmac.new(key, text, hashlib.sha256).hexdigest()

    # What is captured is what left, without the address; the auditor reads it too, others do not.
    path = f"records/{intent['index']}/texts"
    captured: dict[str, str] = {}

    async def arrived() -> bool:
        texts = (await get(suite, alice, path)).json()["texts"]
        captured.update({text["kind"]: text["text"] for text in texts})
        return bool(captured)

    for _ in range(50):
        if await arrived():
            break
    assert set(captured) == {"prompt_sent"}
    assert "carol@example.com" not in captured["prompt_sent"]
    assert "[EMAIL_1]" in captured["prompt_sent"]
    assert (await get(suite, auditor, path)).status_code == 200
    assert (await get(suite, bob, path)).status_code == 404
    assert (await get(suite, bob, f"records/{intent['index']}")).status_code == 404
    listed = (await get(suite, auditor, "records", subject="alice-7", tenant="acme")).json()
    assert request_id in {entry["record"].get("request_id") for entry in listed["records"]}

    # Nobody stands in a file by name, and no text.
    audit = suite.state_dir / "audit"
    assert in_files(audit, b"alice-7", b"carol@example.com", b"Write to") == []

    done = suite.weaver("audit", "forget", "alice-7", "--note", "by letter", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pseudonym"] == shown
    assert (await get(suite, auditor, path)).json()["error"]["code"] == "erased"
    mine = (await get(suite, alice, "records", request_id=request_id)).json()["records"]
    assert mine == []
    assert suite.weaver("audit", "forget", "alice-7", "--note", "again").returncode == 0
    assert suite.weaver("audit", "forget", "nobody").returncode == 1
    assert in_files(audit, b"alice-7") == []
    status, report = verify(suite)
    assert (status, report["findings"]) == (0, [])


async def test_orders_are_also_taken_while_the_service_is_stopped(start_suite: Any) -> None:
    suite = start_suite("separate", PRIVATE)
    alice = token(suite, "alice-7")
    _, _, request_id = await said(suite, alice, stream=False)
    (outcome, intent) = (await get(suite, alice, "records", request_id=request_id)).json()[
        "records"
    ]
    running = suite.weaver("audit", "forget", "alice-7", "--offline")
    assert running.returncode == 2
    assert "one writer" in running.stderr
    suite.signal(signal.SIGINT)
    wait_until(lambda: suite.process.poll() is not None, 30.0)
    who = suite.weaver("audit", "who", "alice-7", "--offline", "--json")
    assert json.loads(who.stdout)["tenant"] == "acme"
    erased = suite.weaver("audit", "erase", str(intent["index"]), "--offline", "--json")
    assert json.loads(erased.stdout)["erased"] == 1
    done = suite.weaver("audit", "forget", "alice-7", "--offline", "--json")
    assert json.loads(done.stdout)["pseudonym"] == outcome["record"]["principal"]["subject"]
    status, report = verify(suite)
    assert (status, report["findings"]) == (0, [])


async def test_every_service_says_in_the_log_that_it_started_and_stopped(start_suite: Any) -> None:
    suite = start_suite("separate", {"WEAVER_API_KEY_ROLES": "admin"})

    def services(kind: str) -> set[str]:
        done = suite.weaver("audit", "list", "--type", kind, "--json")
        entries = [json.loads(line)["record"] for line in done.stdout.splitlines()]
        return {entry["attributes"]["service"] for entry in entries}

    everyone = {"audit", "gateway", "model", "ratelimit"}
    wait_until(lambda: services("service_started") == everyone, 15.0)
    suite.signal(signal.SIGINT)
    wait_until(lambda: suite.process.poll() is not None, 30.0)
    assert {"audit", "gateway"} <= services("service_stopped")
