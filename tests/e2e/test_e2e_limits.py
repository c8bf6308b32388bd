"""Limits as clients meet them at the front door: refusals, headers, budgets, slots, usage."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt
import openai
import pytest

from tests.e2e.clients import chat, http, sdk

LIFE_S = 3.0
POLICY = """
version: 1
rules:
  - {name: requests, limit: 1, per: second, burst: 1, match: {tenants: [paced]}}
  - {name: tokens_per_minute, unit: tokens, limit: 900, per: minute, match: {tenants: [paced]}}
  - {name: tokens_per_day, unit: tokens, limit: 3000, per: day, match: {tenants: [tokens]}}
  - {name: cost_per_day, unit: cost, limit: 0.002, per: day, match: {tenants: [money]}}
  - {name: concurrency, unit: concurrency, limit: 2, match: {tenants: [slots]}}
  - {name: team, scope: tenant, limit: 2, per: day, match: {tenants: [team]}}
  - {name: team_tokens, scope: tenant, unit: tokens, limit: 100000, per: day,
     match: {tenants: [team]}}
  - {name: scarce, scope: model, limit: 1, per: day,
     match: {tenants: [scarce], models: ["stub-*"]}}
  - {name: trial, unit: tokens, limit: 1, per: minute, shadow: true, match: {tenants: [trial]}}
"""


class Tenants:
    """A suite with a policy file, and clients of any tenant."""

    def __init__(self, suite: Any, policy: Path) -> None:
        self.suite = suite
        self.policy = policy
        self._key = (suite.state_dir / "keys" / "dev-jwt.pem").read_text()

    def token(self, tenant: str, subject: str = "alice", role: str = "user") -> str:
        now = int(time.time())
        claims = {
            "iss": "weaver-dev",
            "aud": "weaver",
            "sub": subject,
            "tenant": tenant,
            "roles": [role],
            "iat": now,
            "exp": now + 3600,
        }
        return jwt.encode(claims, self._key, "RS256")

    def sdk(self, tenant: str, **options: Any) -> openai.AsyncOpenAI:
        return sdk(self.suite, api_key=self.token(tenant), **options)

    def http(self, tenant: str, subject: str = "alice", role: str = "user") -> httpx.AsyncClient:
        return http(self.suite, key=self.token(tenant, subject, role))

    async def usage(self, tenant: str, name: str, subject: str = "alice") -> dict[str, Any]:
        """Return what an administrator sees of a rule."""
        async with self.http("default", "root", "admin") as client:
            asked = {"tenant": tenant, "issuer": "weaver-dev", "subject": subject, "roles": "user"}
            answer = await client.get("/v1/admin/usage", params=asked | {"model": "stub-model"})
            assert answer.status_code == 200, answer.text
            limits: list[dict[str, Any]] = answer.json()["limits"]
            return next(limit for limit in limits if limit["name"] == name)


def environment(policy: Path, **more: str) -> dict[str, str]:
    return {
        "WEAVER_RATELIMIT_POLICY_FILE": str(policy),
        "WEAVER_RATELIMIT_RPS": "5000",
        "WEAVER_RATELIMIT_BURST": "10000",
        "WEAVER_RATELIMIT_RESERVATION_MS": str(int(LIFE_S * 1000)),
        "WEAVER_MODEL_INPUT_PRICE_MICROS": "1000000",
        "WEAVER_MODEL_OUTPUT_PRICE_MICROS": "2000000",
        "WEAVER_STUB_CHUNK_DELAY_MS": "5",
        "WEAVER_STUB_TOKENS": "1200",
        **more,
    }


@pytest.fixture(scope="module")
def shared(
    topology: str,
    suites: Callable[[str, Mapping[str, str]], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tenants:
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(POLICY)
    return Tenants(suites(topology, environment(policy)), policy)


@pytest.fixture(scope="module")
def suites() -> Iterator[Callable[[str, Mapping[str, str]], Any]]:
    """Return what starts a suite for all tests of this file."""
    from tests.e2e.conftest import RunningSuite  # noqa: PLC0415 - a plugin by the time of tests

    with contextlib.ExitStack() as stack:

        def start(topology: str, variables: Mapping[str, str]) -> Any:
            running = RunningSuite(topology, variables)
            stack.callback(running.stop)
            return running

        yield start


async def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


async def test_the_sdk_comes_back_when_it_is_told_to(shared: Tenants) -> None:
    async with shared.sdk("paced", max_retries=3) as client:
        start = time.monotonic()
        for _ in range(3):
            await client.chat.completions.create(**chat(max_tokens=5))
        assert 1.5 < time.monotonic() - start < 6


async def test_a_refusal_says_which_rule_whose_and_when(shared: Tenants) -> None:
    async with shared.http("paced", "bob") as client:
        body = chat(max_tokens=5)
        answers = [await client.post("/v1/chat/completions", json=body) for _ in range(3)]
        refused = next(answer for answer in answers if answer.status_code == 429)
        message = refused.json()["error"]["message"]
        assert message.startswith("Your own limit `requests` (1 requests a second) is used up.")
        assert 0 < int(refused.headers["retry-after"]) <= 2
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert '"requests";r=0' in refused.headers["ratelimit"]
        assert '"tokens_per_minute";q=900;qu="tokens";w=60' in refused.headers["ratelimit-policy"]


async def test_a_call_larger_than_the_limit_is_refused_for_good(shared: Tenants) -> None:
    async with shared.http("paced", "carol") as client:
        refused = await client.post("/v1/chat/completions", json=chat(max_tokens=901))
    assert refused.status_code == 429
    assert "more than is ever allowed" in refused.json()["error"]["message"]
    assert "retry-after" not in refused.headers
    assert refused.headers["x-should-retry"] == "false"


async def test_anthropic_clients_are_refused_in_their_shape(shared: Tenants) -> None:
    body = {
        "model": "stub-model",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": "Hello!"}],
    }
    async with shared.http("paced", "dora") as client:
        answers = [await client.post("/v1/messages", json=body) for _ in range(3)]
    assert "anthropic-ratelimit-tokens-remaining" in answers[0].headers
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_concurrent_streams_never_overspend_a_budget(shared: Tenants) -> None:
    """Promise 6: not by one token, and what was not used is not lost."""
    spent: list[int] = []
    ends: list[tuple[str | None, str]] = []

    async def spend(client: openai.AsyncOpenAI) -> None:
        while True:
            try:
                stream = await client.chat.completions.create(
                    **chat("one two three", max_tokens=12),
                    stream=True,
                    stream_options={"include_usage": True},
                )
                spent.extend(
                    [chunk.usage.total_tokens async for chunk in stream if chunk.usage is not None]
                )
            except openai.RateLimitError as error:
                ends.append((error.code, error.response.headers["x-should-retry"]))
                return

    async with shared.sdk("tokens") as client:
        await asyncio.gather(*(spend(client) for _ in range(24)))

    assert set(ends) == {("rate_limit_exceeded", "false")}

    async def settled() -> bool:
        return bool((await shared.usage("tokens", "tokens_per_day"))["held"] == 0)

    await until(settled)
    state = await shared.usage("tokens", "tokens_per_day")
    assert state["used"] == sum(spent) <= 3000
    assert sum(spent) > 1500


async def test_an_exhausted_budget_of_money_is_not_retried(shared: Tenants) -> None:
    spent = 0

    async def spend(client: openai.AsyncOpenAI) -> None:
        nonlocal spent
        for _ in range(200):
            answer = await client.chat.completions.create(**chat(max_tokens=20))
            assert answer.usage is not None
            spent += answer.usage.prompt_tokens + 2 * answer.usage.completion_tokens

    async with shared.sdk("money", max_retries=5) as client:
        start = time.monotonic()
        with pytest.raises(openai.RateLimitError) as caught:
            await spend(client)
    assert caught.value.code == caught.value.type == "insufficient_quota"
    assert "(0.002 in money a day)" in caught.value.message
    assert time.monotonic() - start < 20
    assert 1000 < spent <= 2000
    assert (await shared.usage("money", "cost_per_day"))["used"] == spent


async def opened(client: httpx.AsyncClient, tokens: int = 1200) -> tuple[Any, httpx.Response]:
    """Return a stream that is under way, and its response."""
    body = chat(stream=True, max_tokens=tokens)
    context = client.stream("POST", "/v1/chat/completions", json=body)
    return context, await context.__aenter__()


async def test_a_slot_is_held_while_a_call_lives_and_no_longer(shared: Tenants) -> None:
    async with shared.http("slots") as client, shared.http("slots") as leaver:
        # Longer than a reservation lives: it is renewed.
        staying, first = await opened(client)
        going, second = await opened(leaver)
        assert (first.status_code, second.status_code) == (200, 200)
        await asyncio.sleep(LIFE_S + 0.7)
        assert (await shared.usage("slots", "concurrency"))["used"] == 2
        refused = await client.post("/v1/chat/completions", json=chat(max_tokens=5))
        assert refused.status_code == 429
        assert "(2 calls at a time) is used up" in refused.json()["error"]["message"]
        assert '"concurrency";q=2;qu="concurrent-requests"' in refused.headers["ratelimit-policy"]
        await going.__aexit__(None, None, None)
        await leaver.aclose()

        async def free() -> bool:
            return bool((await shared.usage("slots", "concurrency"))["used"] == 1)

        await until(free, 1.0)
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
        await staying.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("tenant", "rule", "whose"),
    [("team", "team", "the tenant `team`"), ("scarce", "scarce", "the model `stub-model`")],
)
async def test_a_shared_ceiling_names_who_shares_it(
    shared: Tenants, tenant: str, rule: str, whose: str
) -> None:
    statuses = []
    for subject in ("a", "b", "c"):
        async with shared.http(tenant, subject) as client:
            answer = await client.post("/v1/chat/completions", json=chat(max_tokens=5))
            statuses.append(answer.status_code)
    assert statuses == ([200, 200, 429] if tenant == "team" else [200, 429, 429])
    assert f"The limit `{rule}` of all callers of {whose}" in answer.json()["error"]["message"]
    if tenant == "team":

        async def settled() -> bool:
            return bool((await shared.usage("team", "team_tokens"))["held"] == 0)

        await until(settled)


async def test_rules_in_shadow_mode_are_for_operators(shared: Tenants) -> None:
    async with shared.http("trial") as client:
        answer = await client.post("/v1/chat/completions", json=chat())
        assert answer.status_code == 200
        assert not any("trial" in value for value in answer.headers.values())
        me = (await client.get("/v1/whoami")).json()
        assert [limit["name"] for limit in me["usage"]["limits"]] == ["requests"]
    assert (await shared.usage("trial", "trial"))["shadow"] is True


async def test_a_caller_sees_what_they_have_used(shared: Tenants) -> None:
    async with shared.http("team", "d") as client:
        me = (await client.get("/v1/whoami")).json()
    assert (me["tenant"], me["subject"], me["usage"]["available"]) == ("team", "d", True)
    limits = {limit["name"]: limit for limit in me["usage"]["limits"]}
    assert limits["team"]["scope"] == "tenant"
    assert limits["team"]["scope_key"] == "team"


async def test_usage_and_policies_are_for_administrators_and_recorded(shared: Tenants) -> None:
    async with shared.http("team") as client:
        for path in ("usage?subject=x", "policies"):
            assert (await client.get(f"/v1/admin/{path}")).status_code == 403
    async with shared.http("default", "root", "admin") as client:
        assert (await client.get("/v1/admin/usage")).json()["error"]["param"] == "subject"
        answer = await client.get("/v1/admin/policies")
        limits = answer.json()["limits"]
        assert limits["on_store_failure"] == "local"
        assert limits["file_refused"] is None
        assert {rule["name"] for rule in limits["rules"]} >= {"team", "trial", "requests"}
        request_id = answer.headers["x-request-id"]
        found = await client.get("/v1/audit/records", params={"request_id": request_id})
        kinds = [one["record"]["type"] for one in found.json()["records"]]
        assert sorted(kinds) == ["intent", "outcome"]
        assert found.json()["records"][0]["record"]["surface"] == "admin.policies"


async def test_a_changed_policy_file_decides_and_a_bad_one_does_not(shared: Tenants) -> None:
    async with shared.http("changed") as client, shared.http("default", "r", "admin") as admin:

        async def refused() -> bool:
            answer = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
            return answer.status_code == 429

        async def policy() -> str:
            dependencies = (await client.get("/health")).json()["dependencies"]
            return str(dependencies["ratelimit.policy"])

        async def bad() -> bool:
            return await policy() == "down"

        async def good() -> bool:
            return await policy() == "ok"

        assert not await refused()
        rule = "  - {name: changed, limit: 1, per: day, match: {tenants: [changed]}}\n"
        replace(shared.policy, POLICY + rule)
        await until(refused)
        replace(shared.policy, POLICY + "  - {name: changed, limit: none}\n")
        await until(bad)
        assert await refused()
        told = (await admin.get("/v1/admin/policies")).json()["limits"]
        assert "limit" in told["file_refused"]
        replace(shared.policy, POLICY)
        await until(good)
        assert not await refused()


def replace(path: Path, text: str) -> None:
    """Replace a file at once, as mounted configuration is."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@pytest.fixture
async def load(shared: Tenants) -> AsyncIterator[list[tuple[int, float]]]:
    """Calls that go on beside a test; their statuses and times."""
    seen: list[tuple[int, float]] = []
    stop = asyncio.Event()

    async def call() -> None:
        async with shared.http("plain") as client:
            while not stop.is_set():
                start = time.monotonic()
                answer = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
                seen.append((answer.status_code, time.monotonic() - start))
                await asyncio.sleep(0.02)

    calls = [asyncio.create_task(call()) for _ in range(3)]
    yield seen
    stop.set()
    await asyncio.gather(*calls)


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_the_store_may_go_while_clients_call(
    shared: Tenants, load: list[tuple[int, float]], fault: str
) -> None:
    """Promise 6: the declared policy applies, is visible, and no call hangs."""
    pid = shared.suite.pids["valkey"]
    async with shared.http("plain") as client:

        async def sources() -> str:
            return str((await client.get("/v1/whoami")).json()["usage"]["source"])

        async def health() -> str:
            return str((await client.get("/health")).json()["status"])

        async def local() -> bool:
            return await sources() == "local"

        async def degraded() -> bool:
            return await health() == "degraded"

        async def whole() -> bool:
            return await sources() == "store" and await health() == "ok"

        os.kill(pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
        if fault == "paused":
            try:
                await until(local)
                await until(degraded)
            finally:
                os.kill(pid, signal.SIGCONT)
        await until(whole, 10.0)
    async with shared.http("default", "root", "admin") as client:
        found = await client.get("/v1/audit/records", params={"type": "degraded_entered"})
        records = [one["record"] for one in found.json()["records"]]
        assert any(one["attributes"].get("dependency") == "store" for one in records), records
    assert {status for status, _ in load} == {200}
    assert max(took for _, took in load) < 3.0


async def test_a_store_that_is_needed_is_missed_at_once(start_suite: Any, tmp_path: Path) -> None:
    """The declared policy `deny`: 503 with when to come back, and never a 500."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    more = {"WEAVER_RATELIMIT_ON_STORE_FAILURE": "deny"}
    suite = start_suite("up", environment(policy, **more))
    tenants = Tenants(suite, policy)
    async with tenants.http("plain") as client:
        os.kill(suite.pids["valkey"], signal.SIGSTOP)
        try:
            for _ in range(3):
                start = time.monotonic()
                answer = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "ratelimit_unavailable"
                assert answer.headers["retry-after"] == "1"
                assert time.monotonic() - start < 1.5
            me = await client.get("/v1/whoami")
            assert (me.status_code, me.json()["usage"]["available"]) == (200, False)
        finally:
            os.kill(suite.pids["valkey"], signal.SIGCONT)

        async def whole() -> bool:
            answer = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
            return answer.status_code == 200

        await until(whole, 3.0)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_silent_provider_does_not_end_a_reservation(
    start_suite: Any, tmp_path: Path, stream: bool
) -> None:
    """Neither a whole answer nor a first byte that takes longer than a reservation lives."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    more = {"WEAVER_STUB_LATENCY_MS": "3500", "WEAVER_RATELIMIT_RESERVATION_MS": "1200"}
    suite = start_suite("up", environment(policy, **more))
    tenants = Tenants(suite, policy)
    async with tenants.http("slots") as client:
        body = chat(max_tokens=3, stream=stream)
        waiting = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        seen = []
        for _ in range(4):
            await asyncio.sleep(0.6)
            seen.append((await tenants.usage("slots", "concurrency"))["used"])
        assert seen == [1] * 4
        assert (await waiting).status_code == 200

        async def free() -> bool:
            return bool((await tenants.usage("slots", "concurrency"))["used"] == 0)

        await until(free, 1.0)


async def test_a_dead_gateway_gives_its_slots_back_in_time(
    start_suite: Any, tmp_path: Path
) -> None:
    """Promise 7: no reservation blocks a caller past its time to live."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    suite = start_suite("separate", environment(policy))
    tenants = Tenants(suite, policy)
    async with tenants.http("slots") as client:
        _, response = await opened(client)
        assert response.status_code == 200
        os.kill(suite.pids["gateway"], signal.SIGKILL)
        with contextlib.suppress(httpx.HTTPError):
            await response.aread()
    ended = time.monotonic()

    async def used() -> int:
        with contextlib.suppress(AssertionError, httpx.HTTPError):
            return int((await tenants.usage("slots", "concurrency"))["used"])
        return -1

    async def free() -> bool:
        return await used() == 0

    await until(free, LIFE_S + 3.0)
    assert time.monotonic() - ended < LIFE_S + 3.0


async def test_a_limiter_that_is_away_is_no_error_of_whoami(
    start_suite: Any, tmp_path: Path
) -> None:
    """And what is settled meanwhile is settled when it is back."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    suite = start_suite("separate", environment(policy))
    tenants = Tenants(suite, policy)
    async with tenants.http("slots") as client:
        context, response = await opened(client, 100)
        pieces = response.aiter_bytes()
        await anext(pieces)
        os.kill(suite.pids["ratelimit"], signal.SIGSTOP)
        try:
            me = await client.get("/v1/whoami", timeout=5.0)
            assert me.status_code == 200
            assert me.json()["usage"]["available"] is False
            assert me.json()["subject"] == "alice"
            async for _ in pieces:
                pass
            await context.__aexit__(None, None, None)
            await asyncio.sleep(1.5)
        finally:
            os.kill(suite.pids["ratelimit"], signal.SIGCONT)

        async def free() -> bool:
            return bool((await tenants.usage("slots", "concurrency"))["used"] == 0)

        await until(free, 5.0)


async def test_a_slot_is_free_whoever_ends_the_call(start_suite: Any, tmp_path: Path) -> None:
    """A log that does not answer, or a gateway that is told to stop; well before the slot ends."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    more = {
        "WEAVER_RATELIMIT_RESERVATION_MS": "600000",
        "WEAVER_DRAIN_SECONDS": "2",
        "WEAVER_AUDIT_TIMEOUT_MS": "300",
    }
    suite = start_suite("separate", environment(policy, **more))
    tenants = Tenants(suite, policy)

    async def free() -> bool:
        with contextlib.suppress(AssertionError, httpx.HTTPError):
            return bool((await tenants.usage("slots", "concurrency"))["used"] == 0)
        return False

    async with tenants.http("slots") as client:
        os.kill(suite.pids["audit"], signal.SIGSTOP)
        try:
            answer = await client.post("/v1/chat/completions", json=chat(max_tokens=2))
            assert answer.json()["error"]["code"] == "audit_unavailable"
        finally:
            os.kill(suite.pids["audit"], signal.SIGCONT)
        await until(free, 5.0)
        _, response = await opened(client)
        pieces = response.aiter_bytes()
        await anext(pieces)
        assert not await free()
        gateway = suite.pids["gateway"]
        os.kill(gateway, signal.SIGTERM)
        rest = b"".join([piece async for piece in pieces])
        assert b'"error"' in rest
        await until(free, 15.0)
        assert suite.pids["gateway"] != gateway
