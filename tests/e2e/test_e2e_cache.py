"""The exact cache through the front door, with both official SDKs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.clients import http, sdk, trust
from tests.e2e.conftest import wait_until
from tests.e2e.test_e2e_upstream import recorded
from tests.fakes.playback import Playback, Played, stream
from tests.fakes.recordings import OPENAI_ANSWER, openai_stream

KEYS = ("key-of-ann-0123456789", "key-of-bob-0123456789")
ASK: Any = {
    "model": "real-model",
    "temperature": 0,
    "messages": [{"role": "user", "content": "I am c@d.de. Weather?"}],
}
LOOSE: Any = {"model": "real-model", "messages": [{"role": "user", "content": "Weather?"}]}
SAYING_MAIL = OPENAI_ANSWER | {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Ask a@b.de.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
}


@pytest.fixture
async def vendor() -> AsyncIterator[Playback]:
    async with Playback() as running:
        yield running


@pytest.fixture
def cached(vendor: Playback, start_suite: Any, topology: str) -> Any:
    """Return a suite with a cache; Ann's key is its own."""
    suite = start_suite(
        topology,
        {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "real-model",
            "WEAVER_MODEL_ENDPOINT": vendor.base_url,
            "WEAVER_MODEL_API_KEY": "sk-provider",
            "WEAVER_MODEL_RETRIES": "0",
            "WEAVER_MODEL_INPUT_PRICE_MICROS": "1000000",
            "WEAVER_MODEL_OUTPUT_PRICE_MICROS": "1000000",
            "WEAVER_MODEL_CACHE_ENABLED": "true",
            "WEAVER_ALLOWED_API_KEYS": ",".join(KEYS),
            "WEAVER_RATELIMIT_TOKENS_PER_DAY": "1000000",
            "WEAVER_RATELIMIT_RPS": "500",
        },
    )
    suite.api_key = KEYS[0]
    return suite


async def used_tokens(client: Any) -> int:
    """Return how many tokens the limiter has counted today, once nothing is reserved any more."""
    seen = -1
    for _ in range(50):
        usage = (await client.get("/v1/whoami")).json()["usage"]
        (rule,) = [rule for rule in usage["limits"] if rule["unit"] == "tokens"]
        now = int(rule["limit"]) - int(rule["remaining"])
        if now == seen:
            return now
        seen = now
        await asyncio.sleep(0.1)
    return seen


async def test_an_answer_is_given_again_to_its_caller_alone(vendor: Playback, cached: Any) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    async with http(cached) as ann, http(cached, key=KEYS[1]) as bob:
        await _whole(vendor, cached, ann, bob)
        await _what_is_not_deterministic(vendor, ann)
    await _streams(vendor, cached)
    await _without_the_store(vendor, cached)


async def _whole(vendor: Playback, cached: Any, ann: Any, bob: Any) -> None:
    vendor.play(Played(SAYING_MAIL), Played(SAYING_MAIL))
    first = await ann.post("/v1/chat/completions", json=ASK)
    spent = await used_tokens(ann)
    again = await ann.post("/v1/chat/completions", json=ASK)
    assert len(vendor.requests) == 1
    assert (first.headers["x-weaver-cache"], again.headers["x-weaver-cache"]) == ("miss", "hit")
    assert again.headers["x-weaver-attempts"] == "0"
    assert again.headers["x-weaver-provider"] == "openai"
    assert int(again.headers["age"]) < 60
    assert again.content == first.content
    assert "a@b.de" not in again.text
    assert "[EMAIL_2]" in again.text
    assert again.headers["x-weaver-record"] != first.headers["x-weaver-record"]

    outcome = await recorded(cached, again.headers["x-request-id"], "outcome")
    paid = await recorded(cached, first.headers["x-request-id"], "outcome")
    assert outcome["attributes"] == {"cache": "hit", "cache_of": first.headers["x-request-id"]}
    assert paid["attributes"] == {"cache": "miss"}
    assert paid["cost_micros"] == 42
    assert outcome.get("cost_micros", 0) == 0
    assert outcome.get("usage", {}).get("output_tokens", 0) == 0
    assert outcome["redactions"] == paid["redactions"]
    assert await used_tokens(ann) == spent

    other = await bob.post("/v1/chat/completions", json=ASK)
    assert other.headers["x-weaver-cache"] == "miss"
    assert len(vendor.requests) == 2


async def _what_is_not_deterministic(vendor: Playback, ann: Any) -> None:
    vendor.play(*([Played(OPENAI_ANSWER)] * 4))
    for headers, said in (
        ({}, None),
        ({}, None),
        ({"cache-control": "max-age=600"}, "miss"),
        ({"cache-control": "max-age=600"}, "hit"),
        ({"cache-control": "max-age=600, no-cache"}, "miss"),
        ({"cache-control": "max-age=600"}, "hit"),
    ):
        answer = await ann.post("/v1/chat/completions", json=LOOSE, headers=headers)
        assert answer.headers.get("x-weaver-cache") == said
    assert not vendor.played
    assert all("cache-control" not in request.headers for request in vendor.requests)


async def _streams(vendor: Playback, cached: Any) -> None:
    vendor.play(stream(openai_stream(end=False), cut=True), *([stream(openai_stream())] * 2))
    async with sdk(cached) as gpt:
        with pytest.raises(openai.APIError):
            async for _ in await gpt.chat.completions.create(**ASK, stream=True):
                pass
        asked = len(vendor.requests)
        for _ in range(3):
            async with gpt.chat.completions.stream(**ASK) as said:
                completion = await said.get_final_completion()
            calls: Any = completion.choices[0].message.tool_calls
            assert [call.function.arguments for call in calls] == [
                '{"city": "Ulm"}',
                '{"city": "Köln"}',
            ]
        assert len(vendor.requests) == asked + 1  # What broke off was not kept.
    bot = anthropic.AsyncAnthropic(
        base_url=cached.url,
        api_key=KEYS[0],
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=trust(cached)),
    )
    young = {"cache-control": "max-age=600"}
    async with bot:
        for _ in range(3):
            async with bot.messages.stream(**LOOSE, max_tokens=99, extra_headers=young) as told:
                message = await told.get_final_message()
            assert message.stop_reason == "tool_use"
            assert message.usage.output_tokens == 20
    assert len(vendor.requests) == asked + 2
    assert not vendor.played


async def _without_the_store(vendor: Playback, cached: Any) -> None:
    """A store that hangs or is gone is a miss within its deadline, and shows in health."""
    vendor.play(*([Played(OPENAI_ANSWER)] * 30))
    store = cached.pids["cache"]
    os.kill(store, signal.SIGSTOP)
    try:
        async with http(cached) as ann:
            for _ in range(12):
                answer = await ann.post("/v1/chat/completions", json=ASK)
                assert answer.headers["x-weaver-cache"] == "miss"
                assert answer.elapsed.total_seconds() < 1
            async with asyncio.timeout(8):
                while True:
                    health = (await ann.get("/health")).json()
                    if health["dependencies"]["model.cache"] != "ok":
                        break
                    await asyncio.sleep(0.05)
            assert health["status"] == "degraded"
    finally:
        os.kill(store, signal.SIGKILL)
    # Its supervisor starts it again, and it is empty.
    wait_until(lambda: cached.pids.get("cache") not in {None, store}, 20)
    async with http(cached) as ann, asyncio.timeout(20):
        while (await ann.post("/v1/chat/completions", json=ASK)).headers["x-weaver-cache"] != "hit":
            await asyncio.sleep(0.2)
