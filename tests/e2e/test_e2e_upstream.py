"""A real OpenAI-compatible provider behind the suite, on loopback."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.clients import http, sdk
from tests.fakes.upstream import Script, Upstream

BODIES = [
    b'{"model":"gpt-test","messages":[{"role":"user","content":"hi"}]}',
    (
        b'{ "messages" : [ {"content":"\\u00fc\\/ \xc3\xbc","role":"user","x":{"b":1,"a":2}} ],\n'
        b' "temperature":1.0,"top_p":1e0,"seed":1e5,"big":12345678901234567890123,"neg":-0.0,'
        b' "unknown":{"z":[1.50,2e-7,null,true]},"model":"gpt-test" }'
    ),
    (
        b'{"model":"gpt-test","stream":true,"stream_options":{"include_usage":true},"x":1.10,'
        b'"messages":[{"role":"user","content":"hi"}]}'
    ),
]


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
def provided(upstream: Upstream, start_suite: Any, topology: str) -> Any:
    """Return a suite whose provider is the upstream."""
    return start_suite(
        topology,
        {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "gpt-test",
            "WEAVER_MODEL_ENDPOINT": upstream.base_url,
            "WEAVER_MODEL_API_KEY": "sk-provider-secret",
        },
    )


async def recorded(suite: Any, request_id: str, kind: str, seconds: float = 5.0) -> dict[str, Any]:
    """Return a request's own record of a type, as soon as it is there."""
    end = time.monotonic() + seconds
    async with http(suite) as client:
        while True:
            query = {"request_id": request_id, "type": kind}
            page = (await client.get("/v1/audit/records", params=query)).json()
            if page["records"]:
                record: dict[str, Any] = page["records"][0]["record"]
                return record
            assert time.monotonic() < end, f"no {kind} of {request_id}"
            await asyncio.sleep(0.05)


async def test_a_real_provider_behind_the_official_sdk(upstream: Upstream, provided: Any) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    async with http(provided) as client:
        for body in BODIES:
            answer = await client.post(
                "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200, answer.text
            assert upstream.requests[-1].body == body
            headers = dict(upstream.requests[-1].headers)
            sent = {name.lower(): value for name, value in headers.items()}
            assert sent["authorization"] == "Bearer sk-provider-secret"
            assert provided.api_key not in str(headers)

    async with sdk(provided) as client:
        question: Any = [{"role": "user", "content": "Say cheese"}]
        completion = await client.chat.completions.create(model="gpt-test", messages=question)
        assert completion.choices[0].message.content == "You said: Say cheese"
        stream: Any = await client.chat.completions.create(
            model="gpt-test", messages=question, stream=True
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text.strip() == "You said: Say cheese"
        assert not any(chunk.usage for chunk in chunks)
        assert [model.id async for model in client.models.list()] == ["gpt-test"]

        upstream.default = Script(status=400)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="gpt-test", messages=question)
        upstream.default = Script(status=401)
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="gpt-test", messages=question)
        assert caught.value.status_code == 502
        upstream.default = Script()

    await _large_bodies(upstream, provided)
    await _leaving(upstream, provided)
    await _broken_stream(upstream, provided)


async def _large_bodies(upstream: Upstream, suite: Any) -> None:
    """A 12 MB body passes, one over the limit is refused in the vendor's shape."""
    async with http(suite) as client:
        for size, status in ((12_000_000, 200), (17_000_000, 413)):
            content = "x" * size
            body = {"model": "gpt-test", "messages": [{"role": "user", "content": content}]}
            upstream.default = Script(text="ok")
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == status
            if status != 200:
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "param", "code"}
                assert answer.headers["x-request-id"]
        assert len(upstream.requests[-1].body) > 12_000_000
    upstream.default = Script()


async def _leaving(upstream: Upstream, suite: Any) -> None:
    """A client that leaves cancels the provider's call within 100 ms, and has its outcome."""
    scripts = {
        "before": (Script(delay_s=30), False, "chat/completions"),
        "before a stream": (Script(delay_s=30), True, "chat/completions"),
        "during a stream": (Script(stall_after=2), True, "chat/completions"),
        "before a message": (Script(delay_s=30), False, "messages"),
        "during a stream of messages": (Script(stall_after=2), True, "messages"),
    }
    for moment, (script, stream, surface) in scripts.items():
        upstream.default = script
        seen, gone = len(upstream.requests), len(upstream.disconnects)
        client_id = f"leaving-{moment.replace(' ', '-')}"
        async with http(suite) as client:
            messages = [{"role": "user", "content": "a b c"}]
            body = {"model": "gpt-test", "max_tokens": 9, "messages": messages, "stream": stream}
            request = asyncio.create_task(_read(client, f"/v1/{surface}", body, client_id))
            while len(upstream.requests) == seen:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)
            request.cancel()
            left = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await request
            while len(upstream.disconnects) == gone:
                assert time.monotonic() - left < 2, moment
                await asyncio.sleep(0.002)
        assert upstream.disconnects[-1] - left < 0.1, moment
        outcome = await _outcome_of(suite, client_id)
        assert (outcome["outcome"], outcome["reason"]) == ("cancelled", "CANCELLED"), moment
    upstream.default = Script()


async def _outcome_of(suite: Any, client_id: str) -> dict[str, Any]:
    end = time.monotonic() + 5
    async with http(suite) as client:
        while time.monotonic() < end:
            page = (await client.get("/v1/audit/records", params={"type": "outcome"})).json()
            for stored in page["records"]:
                record: dict[str, Any] = stored["record"]
                if record.get("client_request_id") == client_id:
                    return record
            await asyncio.sleep(0.05)
    raise AssertionError(f"no outcome of {client_id}")


async def _read(client: httpx.AsyncClient, path: str, body: dict[str, Any], client_id: str) -> None:
    headers = {"x-client-request-id": client_id}
    async with client.stream("POST", path, json=body, headers=headers) as response:
        async for _ in response.aiter_bytes():
            pass


async def _broken_stream(upstream: Upstream, suite: Any) -> None:
    """A stream that is cut ends with an error event and no `[DONE]`, on both protocols."""
    upstream.default = Script(cut_after=3)
    body = {
        "model": "gpt-test",
        "stream": True,
        "messages": [{"role": "user", "content": "one two three four five"}],
    }
    for http2 in (False, True):
        async with http(suite, http2=http2) as client:
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200
            events = answer.text.strip().split("\n\n")
            assert '"error"' in events[-1]
            assert "[DONE]" not in answer.text
            outcome = await recorded(suite, answer.headers["x-request-id"], "outcome")
            assert (outcome["outcome"], outcome["reason"]) == ("interrupted", "PROVIDER_FAILED")
    upstream.default = Script()
