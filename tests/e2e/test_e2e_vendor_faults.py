"""Providers of both kinds that fail, seen by clients of both dialects on both protocols."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import http
from tests.e2e.conftest import listen_on_free_ports
from tests.e2e.test_e2e_upstream import recorded
from tests.fakes.playback import Playback, Played, stream
from tests.fakes.recordings import anthropic_stream, openai_stream

ASK: Any = {"messages": [{"role": "user", "content": "one two three four"}], "max_tokens": 50}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
ROUTES = """
version: 1
providers:
  nobody: {{kind: openai, endpoint: "http://127.0.0.1:1/v1"}}
  plain: {{kind: openai, endpoint: "https://127.0.0.1:{port}/v1"}}
  stranger: {{kind: anthropic, endpoint: "https://{front}/v1"}}
  gpt: {{kind: openai, endpoint: "http://127.0.0.1:{port}/v1"}}
  claude: {{kind: anthropic, endpoint: "http://127.0.0.1:{port}/v1"}}
models:
  nobody: {{retries: 1, targets: [{{provider: nobody}}]}}
  plain: {{retries: 1, targets: [{{provider: plain}}]}}
  stranger: {{retries: 1, targets: [{{provider: stranger}}]}}
  gpt: {{retries: 0, timeouts: {{idle_ms: 250}}, targets: [{{provider: gpt}}]}}
  claude: {{retries: 0, timeouts: {{idle_ms: 250}}, targets: [{{provider: claude}}]}}
"""


def named(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


BEGUN = {"gpt": openai_stream(end=False), "claude": anthropic_stream(end=False)}
STOPPED = {
    "gpt": openai_stream().removesuffix(b"data: [DONE]\n\n"),
    "claude": anthropic_stream().partition(b"event: message_stop")[0],
}
ERROR = {"gpt": b'data: {"error":{"message":"x"}}\n\n', "claude": named(OVERLOADED)}


def after_the_first_byte(provider: str) -> dict[str, tuple[Played, str]]:
    begun = BEGUN[provider]
    return {
        "cut": (stream(begun, cut=True), "PROVIDER_FAILED"),
        "ended": (stream(begun), "PROVIDER_FAILED"),
        "without its terminator": (stream(STOPPED[provider]), "PROVIDER_FAILED"),
        "garbage": (stream(begun + b'data: {"choic\n\n'), "PROVIDER_FAILED"),
        "error event": (stream(begun + ERROR[provider]), "PROVIDER_FAILED"),
        "stalled": (stream(begun, stall_s=0.6), "DEADLINE_EXCEEDED"),
    }


def before_the_first_byte(provider: str) -> dict[str, Played]:
    return {
        "overloaded": Played(OVERLOADED, 529),
        "server error": Played({"error": {"message": "x"}}, 500),
        "error in a good answer": Played(OVERLOADED if provider == "claude" else {"error": {}}),
        "garbage": Played(b'{"content":[{"ty'),
        "web page": Played(b"<html>", content_type="text/html"),
        "error event first": stream(ERROR[provider]),
    }


@pytest.fixture
async def vendor() -> AsyncIterator[Playback]:
    async with Playback() as running:
        yield running


async def test_whoever_fails_tells_the_client_in_its_own_dialect(
    vendor: Playback, start_suite: Any, topology: str, tmp_path: Path
) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    front = listen_on_free_ports()["WEAVER_FRONT_LISTEN"]
    routes = tmp_path / "routes.yaml"
    routes.write_text(ROUTES.format(port=vendor.port, front=front))
    suite = start_suite(
        topology,
        {
            "WEAVER_MODEL_ROUTES_FILE": str(routes),
            "WEAVER_FRONT_LISTEN": front,
            "WEAVER_MODEL_BREAKER_FAILURES": "0",
            "WEAVER_RATELIMIT_RPS": "1000",
            "WEAVER_RATELIMIT_BURST": "1000",
        },
    )
    for model in ("nobody", "plain", "stranger"):
        for dialect in PATHS:
            await _no_answer(suite, dialect, model, 2)
    for provider in BEGUN:
        for dialect in PATHS:
            for name, played in before_the_first_byte(provider).items():
                vendor.play(played)
                await _no_answer(suite, dialect, provider, 1, f"{name}, {provider}, {dialect}")
            faults = after_the_first_byte(provider).items()
            # Each fault is seen on each protocol by one of the dialects.
            for number, (name, (played, reason)) in enumerate(faults, dialect == "openai"):
                vendor.play(played)
                http2 = bool(number % 2)
                about = f"{name}, {provider}, {dialect}, HTTP/2 {http2}"
                await _broken_off(suite, dialect, provider, reason, about, http2=http2)
    assert not vendor.played


async def _no_answer(suite: Any, dialect: str, model: str, attempts: int, about: str = "") -> None:
    about = about or f"{model}, {dialect}"
    streamed = "event" in about
    async with http(suite) as client:
        answer = await client.post(PATHS[dialect], json=ASK | {"model": model, "stream": streamed})
    assert answer.status_code == 502, f"{about}: {answer.text}"
    assert answer.headers["content-type"].startswith("application/json"), about
    body = answer.json()
    assert body.get("type") == ("error" if dialect == "anthropic" else None), about
    assert body["error"]["message"], about
    assert "127.0.0.1" not in answer.text, about
    assert answer.headers["x-weaver-attempts"] == str(attempts), about
    outcome = await recorded(suite, answer.headers["x-request-id"], "outcome")
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "PROVIDER_FAILED"), about
    assert (outcome["attempts"], outcome["http_status"]) == (attempts, 502), about
    assert not outcome.get("usage", {}).get("output_tokens"), about


async def _broken_off(  # noqa: PLR0913 - a row of a table
    suite: Any, dialect: str, model: str, reason: str, about: str, *, http2: bool
) -> None:
    async with http(suite, http2=http2) as client:
        answer = await client.post(PATHS[dialect], json=ASK | {"model": model, "stream": True})
    assert answer.status_code == 200, f"{about}: {answer.text}"
    assert answer.headers["content-type"].startswith("text/event-stream"), about
    assert answer.text.endswith("\n\n"), about
    *events, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert events, about
    error = json.loads(last.partition("data: ")[2])
    assert error["error"]["message"], about
    if dialect == "anthropic":
        assert last.startswith("event: error\n"), about
        assert error["type"] == "error", about
        assert "message_stop" not in answer.text, about
        assert "message_delta" not in answer.text, about
    else:
        assert "[DONE]" not in answer.text, about
        data = [event.partition("data: ")[2] for event in events if "data: " in event]
        assert data, about
        for one in data:
            assert all(not said["finish_reason"] for said in json.loads(one)["choices"]), about
    outcome = await recorded(suite, answer.headers["x-request-id"], "outcome")
    assert (outcome["outcome"], outcome["reason"]) == ("interrupted", reason), about
    assert outcome["usage"]["output_tokens"] > 0, about
