"""What callers see while the audit service is paused or killed, under both policies."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.clients import chat, http
from tests.e2e.test_e2e_audit import verify
from tests.e2e.test_e2e_faults import whole

ADMIN = {"WEAVER_API_KEY_ROLES": "admin", "WEAVER_AUDIT_TIMEOUT_MS": "500"}


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process where it stands, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def ask(suite: Any, count: int) -> list[tuple[httpx.Response, float]]:
    """Make calls, every second one streamed; each answer with the seconds that it took."""
    answers = []
    async with http(suite) as client:
        for number in range(count):
            start = time.monotonic()
            answer = await client.post("/v1/chat/completions", json=chat(stream=bool(number % 2)))
            answers.append((answer, time.monotonic() - start))
    return answers


async def metric(suite: Any, name: str) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://{suite.metrics['gateway']}/metrics")).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


async def attributes(suite: Any, kind: str) -> list[dict[str, str]]:
    async with http(suite) as client:
        answer = await client.get("/v1/audit/records", params={"type": kind, "page_size": 1000})
    return [entry["record"].get("attributes", {}) for entry in answer.json()["records"]]


async def test_deny_refuses_while_the_log_is_paused(start_suite: Any) -> None:
    """No record, no call: 503 in the vendor's shape, with Retry-After, soon."""
    suite = start_suite("separate", ADMIN)
    await whole(suite, 10.0)
    with paused(suite.pids["audit"]):
        for answer, seconds in await ask(suite, 4):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "audit_unavailable"
            assert int(answer.headers["retry-after"]) >= 1
            assert seconds < 3.0
        async with http(suite) as client:
            health = await client.get("/health")
        assert health.status_code == 503
        assert health.json()["policies"]["audit_on_failure"] == "deny"
    await whole(suite, 10.0)
    assert await metric(suite, "audit_unrecorded_requests_total") == 0
    status, report = verify(suite)
    assert (status, report["findings"]) == (0, [])


@pytest.mark.parametrize("fault", ["paused", "killed"])
async def test_allow_goes_on_and_the_log_says_what_it_missed(start_suite: Any, fault: str) -> None:
    suite = start_suite("separate", {**ADMIN, "WEAVER_AUDIT_ON_FAILURE": "allow"})
    await whole(suite, 10.0)
    pid = suite.pids["audit"]
    if fault == "killed":
        os.kill(pid, signal.SIGKILL)
        answers = await ask(suite, 4)
    else:
        with paused(pid):
            answers = await ask(suite, 6)
            async with http(suite) as client:
                health = (await client.get("/health")).json()
            assert (health["ready"], health["status"]) == (True, "degraded")
            assert health["policies"]["audit_on_failure"] == "allow"
            reading = await asyncio.gather(attributes(suite, "intent"), return_exceptions=True)
            assert isinstance(reading[0], BaseException)
            assert await metric(suite, "audit_unrecorded_requests_total") == len(answers)
    assert [answer.status_code for answer, _ in answers] == [200] * len(answers)
    assert b"[DONE]" in answers[1][0].content
    await whole(suite, 15.0)
    without = sum("x-weaver-record" not in answer.headers for answer, _ in answers[::2])
    unrecorded = await metric(suite, "audit_unrecorded_requests_total")
    assert unrecorded >= without
    said = [
        int(found["unrecorded_requests"])
        for found in await attributes(suite, "degraded_left")
        if "unrecorded_requests" in found
    ]
    assert sum(said) == unrecorded
    status, report = verify(suite)
    assert (status, report["findings"]) == (0, [])
