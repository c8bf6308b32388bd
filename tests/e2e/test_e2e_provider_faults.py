"""A provider that fails in every way, seen from the client, the record and the limits."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import http
from tests.fakes.upstream import Script, Upstream

PROMPT = {"model": "gpt-test", "messages": [{"role": "user", "content": "one two three four"}]}
PATIENCE_MS = 1000
RULES = """
version: 1
rules:
  - {name: tokens_a_day, unit: tokens, limit: 1000000, per: day}
"""


@dataclass(frozen=True)
class Case:
    """A fault, and what is to come of it."""

    script: Script
    status: int
    reason: str
    attempts: int
    seconds: float = 2.5
    headers: Mapping[str, str] = field(default_factory=dict)


FAILED = (502, "PROVIDER_FAILED")
BEFORE_THE_FIRST_BYTE = {
    "reset": Case(Script(reset=True), *FAILED, 2),
    "cut after the headers": Case(Script(cut_after=0), *FAILED, 2),
    "server error": Case(Script(status=500), *FAILED, 2),
    "overloaded": Case(Script(status=503), *FAILED, 2),
    "our key refused": Case(Script(status=401), *FAILED, 1),
    "request timeout": Case(Script(status=408), *FAILED, 2),
    "redirect": Case(Script(status=302, headers={"location": "/x"}), *FAILED, 1),
    "error in a good answer": Case(Script(body='{"error":{"message":"x"}}'), *FAILED, 2),
    "garbage": Case(Script(body='{"choices":[{"del'), *FAILED, 2),
    "web page": Case(Script(body="<html>", content_type="text/html"), *FAILED, 2),
    "flood of headers": Case(Script(header_flood=200), *FAILED, 1),
    "slow headers": Case(Script(delay_s=30), 504, "DEADLINE_EXCEEDED", 1),
    "stalled after the headers": Case(Script(stall_after=0), 504, "DEADLINE_EXCEEDED", 1),
    "throttled": Case(Script(status=429), 429, "PROVIDER_THROTTLED", 2),
    "throttled for long": Case(
        Script(status=429, headers={"retry-after": "60"}),
        429,
        "PROVIDER_THROTTLED",
        1,
        headers={"retry-after": "60"},
    ),
    "throttled for a moment": Case(
        Script(status=429, headers={"retry-after": "1"}),
        429,
        "PROVIDER_THROTTLED",
        2,
        seconds=4,
        headers={"retry-after": "1"},
    ),
    "malformed request": Case(Script(status=400), 400, "PROVIDER_REJECTED", 1),
    "too long": Case(Script(status=413), 413, "PROVIDER_REJECTED", 1),
}
AFTER_THE_FIRST_BYTE = {
    "cut": (Script(cut_after=3, chunk_delay_s=0.03), "PROVIDER_FAILED"),
    "ended": (Script(end_after=3), "PROVIDER_FAILED"),
    "without its terminator": (Script(done=False), "PROVIDER_FAILED"),
    "garbage": (Script(garbage_after=3), "PROVIDER_FAILED"),
    "error event": (Script(error_after=3), "PROVIDER_FAILED"),
    "stalled": (Script(stall_after=3), "DEADLINE_EXCEEDED"),
    "stalled at its end": (Script(stall_after=9), "DEADLINE_EXCEEDED"),
}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
async def second() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


def provider(upstream: Upstream, **more: str) -> dict[str, str]:
    return {
        "WEAVER_MODEL_PROVIDER": "openai",
        "WEAVER_MODEL_NAME": "gpt-test",
        "WEAVER_MODEL_ENDPOINT": upstream.base_url,
        "WEAVER_MODEL_API_KEY": "sk-provider-secret",
        "WEAVER_MODEL_RETRIES": "1",
        "WEAVER_MODEL_FIRST_BYTE_TIMEOUT_MS": str(PATIENCE_MS),
        "WEAVER_MODEL_IDLE_TIMEOUT_MS": str(PATIENCE_MS),
        "WEAVER_RATELIMIT_RPS": "1000",
        "WEAVER_RATELIMIT_BURST": "1000",
        **more,
    }


async def outcome_of(suite: Any, request_id: str) -> dict[str, Any]:
    """Return a request's outcome, as soon as it is there."""
    async with asyncio.timeout(5), http(suite) as client:
        while True:
            query = {"request_id": request_id, "type": "outcome"}
            page = (await client.get("/v1/audit/records", params=query)).json()
            if page["records"]:
                record: dict[str, Any] = page["records"][0]["record"]
                return record
            await asyncio.sleep(0.02)


def tokens(outcome: Mapping[str, Any]) -> int:
    usage = outcome.get("usage", {})
    return int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))


async def left(suite: Any) -> tuple[int, int]:
    """Return the tokens that the day has left as a call is admitted, and what the call used."""
    async with http(suite) as client:
        await asyncio.sleep(0.3)
        answer = await client.post("/v1/chat/completions", json=PROMPT | {"max_tokens": 50})
        assert answer.status_code == 200, answer.text
        found = re.search(r'"tokens_a_day";r=(\d+)', answer.headers["ratelimit"])
        assert found is not None
        used = answer.json()["usage"]["total_tokens"]
        return int(found[1]), used


async def test_every_fault_is_a_clear_error_a_true_record_and_a_fair_bill(
    upstream: Upstream, start_suite: Any, topology: str, tmp_path: Path
) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    more = {
        "WEAVER_MODEL_BREAKER_FAILURES": "0",
        "WEAVER_RATELIMIT_POLICY_FILE": str(rules),
        "WEAVER_MODEL_INPUT_PRICE_MICROS": "1000000",
        "WEAVER_MODEL_OUTPUT_PRICE_MICROS": "1000000",
    }
    suite = start_suite(topology, provider(upstream, **more))
    before, used = await left(suite)
    for name, case in BEFORE_THE_FIRST_BYTE.items():
        for stream in (False, True):
            used += await _refused(upstream, suite, f"{name}, stream {stream}", case, stream)
    for name, (script, reason) in AFTER_THE_FIRST_BYTE.items():
        for http2 in (False, True):
            used += await _broken_off(upstream, suite, f"{name}, HTTP/2 {http2}", script, reason)
    used += await _too_long(upstream, suite)
    upstream.default = Script()
    after, _ = await left(suite)
    assert before - after == used


async def _refused(upstream: Upstream, suite: Any, name: str, case: Case, stream: bool) -> int:
    upstream.default, seen = case.script, len(upstream.requests)
    async with http(suite, http2=stream) as client:
        started = time.monotonic()
        answer = await client.post("/v1/chat/completions", json=PROMPT | {"stream": stream})
        spent_s = time.monotonic() - started
    assert answer.status_code == case.status, f"{name}: {answer.text}"
    assert answer.headers["content-type"].startswith("application/json"), name
    error = answer.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}, name
    assert error["message"], name
    assert "sk-provider-secret" not in answer.text + str(answer.headers), name
    assert len(upstream.requests) - seen == case.attempts, name
    assert answer.headers["x-weaver-attempts"] == str(case.attempts), name
    assert answer.headers["x-weaver-provider"] == "openai", name
    for header, value in case.headers.items():
        assert answer.headers[header] == value, name
    assert spent_s < case.seconds, name
    outcome = await outcome_of(suite, answer.headers["x-request-id"])
    assert (outcome["outcome"], outcome["reason"]) == ("failed", case.reason), name
    assert (outcome["http_status"], outcome["attempts"]) == (case.status, case.attempts), name
    assert outcome["provider"] == "openai", name
    tries = outcome["attributes"]["tries"].split(", ")
    assert len(tries) == case.attempts, name
    assert all(case.reason.lower() in one for one in tries), name
    assert tokens(outcome) == 0, name
    return 0


async def _broken_off(
    upstream: Upstream, suite: Any, name: str, script: Script, reason: str
) -> int:
    upstream.default = script
    body = PROMPT | {"stream": True}
    async with http(suite, http2="HTTP/2 True" in name) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, name
    events = answer.text.removesuffix("\n\n").split("\n\n")
    assert answer.text.endswith("\n\n"), name
    last = json.loads(events[-1].removeprefix("data: "))
    assert set(last["error"]) >= {"message", "type", "param", "code"}, name
    assert "[DONE]" not in answer.text, name
    assert '"finish_reason": "stop"' not in answer.text, name
    for event in events[:-1]:
        assert json.loads(event.removeprefix("data: "))["choices"], name
    outcome = await outcome_of(suite, answer.headers["x-request-id"])
    assert (outcome["outcome"], outcome["reason"]) == ("interrupted", reason), name
    usage = outcome["usage"]
    assert usage["output_tokens"] > 0, name
    assert outcome["cost_micros"] == tokens(outcome), name
    return tokens(outcome)


async def _too_long(upstream: Upstream, suite: Any) -> int:
    """An answer of 20 MB is refused, whole or in events, and nobody keeps it."""
    upstream.default = Script(pad_bytes=20_000_000)
    async with http(suite) as client:
        answer = await client.post("/v1/chat/completions", json=PROMPT)
        assert answer.status_code == 502
        assert "longer than" in answer.json()["error"]["message"]
        assert answer.headers["x-weaver-attempts"] == "1"
        answer = await client.post("/v1/chat/completions", json=PROMPT | {"stream": True})
        assert answer.status_code == 200
        assert '"error"' in answer.text.rstrip().rpartition("\n\n")[2]
        assert "[DONE]" not in answer.text
        assert len(answer.text) < 1_000_000
        outcome = await outcome_of(suite, answer.headers["x-request-id"])
        assert outcome["outcome"] == "interrupted"
        return tokens(outcome)


async def test_the_second_provider_answers_when_the_first_cannot(
    upstream: Upstream, second: Upstream, start_suite: Any, topology: str, tmp_path: Path
) -> None:
    """Fallback by setting, a breaker that opens, and its traces in headers, record and health."""
    more = {
        "WEAVER_MODEL_FALLBACK_PROVIDER": "openai",
        "WEAVER_MODEL_FALLBACK_NAME": "gpt-second",
        "WEAVER_MODEL_FALLBACK_ENDPOINT": second.base_url,
        "WEAVER_MODEL_BREAKER_FAILURES": "4",
        "WEAVER_MODEL_BREAKER_OPEN_MS": "60000",
        "WEAVER_API_KEY_ROLES": "admin",
    }
    suite = start_suite(topology, provider(upstream, **more))
    upstream.default = Script(status=500)
    async with http(suite) as client:
        for stream in (False, True):
            body = PROMPT | {"stream": stream}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-weaver-provider"] == "openai-fallback"
            assert answer.headers["x-weaver-attempts"] == "3"
            assert answer.headers["x-weaver-retry-reason"] == "provider_failed"
            assert second.requests[-1].json()["model"] == "gpt-second"
            outcome = await outcome_of(suite, answer.headers["x-request-id"])
            assert (outcome["provider"], outcome["attempts"]) == ("openai-fallback", 3)
            assert outcome["attributes"]["tries"] == (
                "openai/gpt-test provider_failed 500, openai/gpt-test provider_failed 500, "
                "openai-fallback/gpt-second ok 200"
            )
        # Four failures in a row: the first provider rests now.
        asked = len(upstream.requests)
        answer = await client.post("/v1/chat/completions", json=PROMPT)
        assert answer.headers["x-weaver-attempts"] == "1"
        assert len(upstream.requests) == asked
        async with asyncio.timeout(10):
            while (await client.get("/health")).json()["status"] != "degraded":
                await asyncio.sleep(0.1)
        query = {"type": "degraded_entered"}
        async with asyncio.timeout(10):
            while not (await client.get("/v1/audit/records", params=query)).json()["records"]:
                await asyncio.sleep(0.05)
        degraded = (await client.get("/v1/audit/records", params=query)).json()["records"]
        about = degraded[-1]["record"]["attributes"]
        assert (about["dependency"], about["model"]) == ("provider:openai", "gpt-test")
        second.default = Script(status=429, headers={"retry-after": "7"})
        answer = await client.post("/v1/chat/completions", json=PROMPT)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


async def test_routes_follow_their_file_and_roles_hide_models(
    upstream: Upstream, start_suite: Any, topology: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-one")
    routes = tmp_path / "routes.yaml"

    def write(models: str) -> None:
        providers = f"{{p: {{kind: openai, endpoint: '{upstream.base_url}', key_file: {key}}}}}"
        routes.write_text(f"version: 1\nproviders: {providers}\nmodels: {models}\n")

    write("{first: {targets: [{provider: p, model: theirs}]}}")
    suite = start_suite(topology, {"WEAVER_MODEL_ROUTES_FILE": str(routes)})

    async def listed() -> list[str]:
        async with http(suite) as client:
            return [model["id"] for model in (await client.get("/v1/models")).json()["data"]]

    async def answers(model: str) -> int:
        async with http(suite) as client:
            return (
                await client.post("/v1/chat/completions", json=PROMPT | {"model": model})
            ).status_code

    async def until(models: list[str]) -> None:
        async with asyncio.timeout(10):
            while await listed() != models:
                await asyncio.sleep(0.1)

    assert await listed() == ["first"]
    assert await answers("first") == 200
    assert upstream.requests[-1].json()["model"] == "theirs"
    assert upstream.requests[-1].header("authorization") == "Bearer sk-one"

    write(
        "{first: {targets: [{provider: p}]}, hidden: {roles: [nobody], targets: [{provider: p}]}, "
        "'local/*': {targets: [{provider: p, model: '*'}]}, second: {targets: [{provider: p}]}}"
    )
    key.write_text("sk-two")
    await until(["first", "second"])
    assert await answers("hidden") == 404
    assert await answers("local/llama") == 200
    assert upstream.requests[-1].json()["model"] == "llama"
    assert upstream.requests[-1].header("authorization") == "Bearer sk-two"

    routes.write_text("version: 1\nmodels: {")
    async with asyncio.timeout(10), http(suite) as client:
        while (await client.get("/health")).json()["status"] != "degraded":
            await asyncio.sleep(0.1)
    assert await answers("second") == 200
    write("{third: {targets: [{provider: p}]}}")
    await until(["third"])
    assert "sk-two" not in suite.tail()
