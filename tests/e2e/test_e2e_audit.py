"""The log as an auditor finds it after real calls, and after somebody meddled with it."""

import asyncio
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import chat, http, sdk
from tests.fakes.upstream import Script, Upstream


def verify(suite: Any, directory: Path | None = None) -> tuple[int, dict[str, Any]]:
    """Run the verifier as an auditor would; return its exit status and report."""
    where = str(directory or suite.state_dir / "audit" / "log")
    done = suite.weaver("audit", "verify", where, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_the_log_of_real_calls_verifies(suite: Any) -> None:
    async with sdk(suite) as client:
        await asyncio.gather(
            *(client.chat.completions.create(**chat(str(number))) for number in range(50))
        )
    await asyncio.sleep(1.2)
    status, report = verify(suite)
    assert status == 0, report


def test_tampering_shows(suite: Any, tmp_path: Path) -> None:
    """Promise 4: one changed byte of any file of the log is named, and the verdict is bad."""
    assert suite.weaver("chat", "Hello").returncode == 0
    time.sleep(1.5)
    log = suite.state_dir / "audit" / "log"
    copy = tmp_path / "log"
    shutil.copytree(log, copy)
    shutil.copyfile(log.with_name("log.keys"), tmp_path / "log.keys")
    kinds: dict[tuple[str, ...], Path] = {}
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file() and path.stat().st_size:
            # The newest of a kind stands for its kind; unit tests change every byte of every file.
            kinds[path.relative_to(tmp_path).parts[:3]] = path
    assert len(kinds) >= 4, kinds
    chooser = random.Random(7)  # noqa: S311 - it chooses bytes to flip
    for path in kinds.values():
        original = path.read_bytes()
        position = chooser.randrange(len(original))
        damaged = bytearray(original)
        damaged[position] ^= 1 << chooser.randrange(8)
        path.write_bytes(damaged)
        status, report = verify(suite, copy)
        assert status == 1, (path, position, report)
        path.write_bytes(original)
    assert verify(suite, copy)[0] == 0


async def test_a_caller_reads_their_own_records_and_no_other(suite: Any) -> None:
    async with http(suite) as client:
        answer = await client.post("/v1/chat/completions", json=chat("mine"))
        request_id = answer.headers["x-request-id"]
        origin, _, index = answer.headers["x-weaver-record"].rpartition(" ")
        page = (await client.get("/v1/audit/records", params={"request_id": request_id})).json()
        assert [stored["record"]["type"] for stored in page["records"]] == ["outcome", "intent"]
        assert page["records"][0]["index"] == int(index)
        one = await client.get(f"/v1/audit/records/{index}")
        assert one.json() == page["records"][0]
        receipt = (await client.get(f"/v1/audit/records/{index}/receipt")).json()
        assert receipt["proof"].startswith("c2sp.org/tlog-proof@v1\n")
        assert (await client.get("/v1/audit/checkpoint")).text.startswith(f"{origin}\n")
        assert (await client.get("/v1/audit/keys")).json()["origin"] == origin
        assert (await client.get("/v1/audit/records/0")).status_code == 404
        assert (await client.get("/v1/audit/tile/entries/000")).status_code == 403
        assert (await client.get("/v1/audit/records?type=bogus")).status_code == 400
        assert (await client.get("/v1/audit/records?start_time=today")).status_code == 400

    for role, tenant, status in (("auditor", "acme", 200), ("user", "acme", 404)):
        token = mint(suite, "--subject", "ann", "--tenant", tenant, "--role", role)
        async with http(suite, key=token) as client:
            who = (await client.get("/v1/whoami")).json()
            assert (who["subject"], who["tenant"], who["roles"]) == ("ann", tenant, [role])
            assert (await client.get(f"/v1/audit/records/{index}")).status_code == status
            if role == "auditor":
                page = (await client.get("/v1/audit/records?type=intent&page_size=5")).json()
                assert len(page["records"]) == 5
                assert page["next_page_token"]


def mint(suite: Any, *arguments: str) -> str:
    done = suite.weaver("token", *arguments)
    assert done.returncode == 0, done.stderr
    token: str = done.stdout.strip()
    return token


async def test_refusals_are_counted_in_the_log(suite: Any) -> None:
    """Promise 3: each refused request is counted in exactly one refusal record."""
    token = mint(suite, "--subject", "auditor", "--role", "auditor")

    async def counted(client: Any) -> int:
        records = (await client.get("/v1/audit/records?type=refusal&page_size=1000")).json()[
            "records"
        ]
        return sum(
            stored["record"]["count"]
            for stored in records
            if stored["record"]["reason"] == "INVALID_CREDENTIAL"
        )

    async with http(suite, key=token) as auditor, http(suite, key="wrong") as stranger:
        before = await counted(auditor)
        for _ in range(7):
            assert (await stranger.post("/v1/chat/completions", json=chat())).status_code == 401
        end = time.monotonic() + 5
        while await counted(auditor) != before + 7:
            assert time.monotonic() < end
            await asyncio.sleep(0.2)


@pytest.fixture
async def upstream() -> Any:
    async with Upstream() as running:
        yield running


async def test_the_log_is_asked_before_the_provider_and_before_the_client(
    upstream: Upstream, start_suite: Any
) -> None:
    """Promises 1 and 2, with an audit service that is stopped at each of the two moments."""
    suite = start_suite(
        "separate",
        {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "stub-model",
            "WEAVER_MODEL_ENDPOINT": upstream.base_url,
            "WEAVER_MODEL_API_KEY": "sk-x",
            "WEAVER_AUDIT_TIMEOUT_MS": "10000",
        },
    )
    audit = suite.pids["audit"]
    async with http(suite) as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        seen = len(upstream.requests)

        os.kill(audit, signal.SIGSTOP)
        request = asyncio.create_task(client.post("/v1/chat/completions", json=chat("one")))
        await asyncio.sleep(1.0)
        assert len(upstream.requests) == seen
        assert not request.done()
        os.kill(audit, signal.SIGCONT)
        assert (await request).status_code == 200
        assert len(upstream.requests) == seen + 1

        for stream in (False, True):
            upstream.default = Script(delay_s=0.5)
            body = chat("two", stream=stream)
            request = asyncio.create_task(client.post("/v1/chat/completions", json=body))
            while len(upstream.requests) == seen + 1:
                await asyncio.sleep(0.01)
            os.kill(audit, signal.SIGSTOP)
            await asyncio.sleep(1.5)
            assert not request.done()
            os.kill(audit, signal.SIGCONT)
            answer = await request
            assert answer.status_code == 200
            assert not stream or answer.text.endswith("data: [DONE]\n\n")
            seen += 1
    await asyncio.sleep(1.2)
    assert verify(suite)[0] == 0


def test_an_auditor_verifies_through_the_front_door(suite: Any, tmp_path: Path) -> None:
    """All that the command line needs comes over HTTPS: tiles, listings, receipts, keys."""
    assert suite.weaver("chat", "Hello").returncode == 0
    time.sleep(1.2)
    keys = suite.state_dir / "audit" / "log.keys"
    suite.environment["WEAVER_API_KEY"] = mint(suite, "--subject", "ann", "--role", "auditor")
    suite.environment["WEAVER_AUDITOR_DIR"] = str(tmp_path / "auditor")
    try:
        for arguments in (("--keys", str(keys)), ("--since", "last")):
            done = suite.weaver("audit", "verify", suite.url, "--json", *arguments)
            assert (done.returncode, json.loads(done.stdout)["good"]) == (0, True), done.stderr
        listed = suite.weaver(
            "audit", "list", "--log", suite.url, "--type", "outcome", "--limit", "1", "--json"
        )
        stored = json.loads(listed.stdout)
        assert "--page" in listed.stderr
        place = str(tmp_path / "r.json")
        done = suite.weaver(
            "audit", "receipt", str(stored["index"]), "--log", suite.url, "--output", place
        )
        assert done.returncode == 0, done.stderr
        done = suite.weaver("audit", "verify-receipt", place, "--key", str(keys))
        assert done.stdout.startswith(f"proven: record {stored['index']} of ")
        done = suite.weaver("audit", "mirror", suite.url, str(tmp_path / "mirror"))
        assert done.returncode == 0, done.stdout + done.stderr
        done = suite.weaver("audit", "verify", str(tmp_path / "mirror"), "--keys", str(keys))
        assert done.stdout.endswith("the log is good\n"), done.stdout + done.stderr
    finally:
        del suite.environment["WEAVER_API_KEY"], suite.environment["WEAVER_AUDITOR_DIR"]


async def test_the_service_finds_damage_in_its_own_log(start_suite: Any) -> None:
    """Promise 9: a damaged log shows in the health and in a metric, and nothing stops."""
    suite = start_suite("up", {"WEAVER_AUDIT_MONITOR_INTERVAL_SECONDS": "0.5"})
    bundle = suite.state_dir / "audit" / "log" / "tile" / "entries" / "000.p"
    async with http(suite) as client:

        async def verification() -> str:
            health = (await client.get("/health")).json()
            state: str = health["dependencies"]["audit.verification"]
            return state

        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        assert await verification() == "ok"
        await asyncio.sleep(1.5)
        path = max(bundle.iterdir(), key=lambda one: int(one.name))
        data = path.read_bytes()
        path.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
        end = time.monotonic() + 20
        while await verification() == "ok":
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        assert "audit_verification_failed" in suite.log.read_text()
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        path.write_bytes(data)
        while await verification() != "ok":
            assert time.monotonic() < end + 20
            await asyncio.sleep(0.2)
