"""Anything may die: the suite heals by itself and loses no acknowledged record."""

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

import httpx
import pytest

from tests.e2e.clients import chat, http
from tests.e2e.test_e2e_audit import verify

PROCESSES = ("audit", "ratelimit", "model", "gateway", "envoy", "valkey")


async def whole(suite: Any, seconds: float) -> None:
    """Wait until the suite answers a call and says it is well."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        with contextlib.suppress(httpx.HTTPError):
            async with http(suite) as client:
                answer = await client.post("/v1/chat/completions", json=chat(), timeout=2.0)
                health = await client.get("/health", timeout=2.0)
                if answer.status_code == 200 and health.json()["status"] == "ok":
                    return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the suite did not heal:\n{suite.tail()}")


async def test_anything_may_die(start_suite: Any) -> None:
    """Promise 7: SIGKILL of each process in turn, under a light load."""
    suite = start_suite("separate", {})
    acknowledged: list[tuple[str, int]] = []
    statuses: list[int] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            with contextlib.suppress(httpx.HTTPError):
                async with http(suite) as client:
                    answer = await client.post("/v1/chat/completions", json=chat(), timeout=5.0)
                    statuses.append(answer.status_code)
                    if answer.status_code == 200:
                        origin, _, index = answer.headers["x-weaver-record"].rpartition(" ")
                        acknowledged.append((origin, int(index)))
            await asyncio.sleep(0.02)

    workers = [asyncio.create_task(load()) for _ in range(2)]
    await asyncio.sleep(0.5)
    for name in PROCESSES:
        pid = suite.pids[name]
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.05)
        await whole(suite, 5.0)
        assert suite.pids[name] != pid
    stop.set()
    await asyncio.gather(*workers)
    assert len(acknowledged) > 20  # calls wait while a neighbour is away
    assert 401 not in statuses
    assert 500 not in statuses
    await asyncio.sleep(1.5)
    status, report = verify(suite)
    assert status == 0, report
    async with http(suite) as client:
        for _, index in acknowledged[:: max(1, len(acknowledged) // 20)]:
            stored = (await client.get(f"/v1/audit/records/{index}")).json()
            assert stored["record"]["type"] == "outcome"


@pytest.mark.parametrize("name", ["audit", "ratelimit", "model"])
async def test_degraded_is_visible(start_suite: Any, name: str) -> None:
    """Promise 9: a neighbour that hangs shows in `/health`, and is never a hang or a wrong 401."""
    suite = start_suite("separate", {})
    os.kill(suite.pids[name], signal.SIGSTOP)
    try:
        async with http(suite) as client:
            start = time.monotonic()
            while True:
                health = await client.get("/health")
                if health.json()["dependencies"][name] == "down":
                    break
                assert time.monotonic() - start < 5
                await asyncio.sleep(0.1)
            assert health.status_code == 503
            assert health.json()["ready"] is False
            answer = await client.post("/v1/chat/completions", json=chat(), timeout=40.0)
            assert answer.status_code in {503, 504}
            assert answer.json()["error"]["type"] == "server_error"
    finally:
        os.kill(suite.pids[name], signal.SIGCONT)
    await whole(suite, 5.0)


async def test_the_store_of_the_limiter_may_be_gone(start_suite: Any) -> None:
    """Promise 6: without its store the declared policy applies, visibly."""
    suite = start_suite("separate", {})
    os.kill(suite.pids["valkey"], signal.SIGSTOP)
    try:
        async with http(suite) as client:
            start = time.monotonic()
            answer = await client.post("/v1/chat/completions", json=chat())
            assert answer.status_code == 200
            assert time.monotonic() - start < 1.0
            while (await client.get("/health")).json()["status"] != "degraded":
                assert time.monotonic() - start < 5
                await asyncio.sleep(0.1)
    finally:
        os.kill(suite.pids["valkey"], signal.SIGCONT)
    await whole(suite, 5.0)
