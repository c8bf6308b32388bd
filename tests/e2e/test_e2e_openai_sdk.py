"""The unmodified official SDK through the front door."""

import time
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.e2e.clients import chat, sdk


@pytest.fixture
async def client(suite: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with sdk(suite) as opened:
        yield opened


async def test_a_completion_is_answered(client: openai.AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(**chat("How are you?"))
    completion = raw.parse()
    assert "How are you?" in (completion.choices[0].message.content or "")
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens > 0
    assert raw.headers["x-request-id"] == raw.headers["request-id"]
    assert raw.headers["x-weaver-record"].rpartition(" ")[2].isdecimal()
    assert raw.headers["ratelimit"]
    assert raw.headers["x-ratelimit-limit-requests"]


async def test_a_stream_is_answered_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        **chat("Tell me."), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Tell me." in text
    assert [chunk.usage for chunk in chunks if chunk.usage][-1].total_tokens > 0
    assert len(chunks) > 5


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["stub-model"]
    assert (await client.models.retrieve("stub-model")).id == "stub-model"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("no/such.model")


async def test_embeddings_are_answered(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="stub-model", input=["a", "b"])
    assert len(answer.data) == 2


async def test_a_wrong_key_is_its_own_exception(suite: Any) -> None:
    async with sdk(suite, api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.chat.completions.create(**chat())
    assert caught.value.code == "invalid_api_key"
    assert "wrong" not in caught.value.message.replace("wrong key", "")


async def test_an_unknown_model_is_its_own_exception(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(**{**chat(), "model": "gpt-99"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 0}, "n"),
    ],
)
async def test_a_malformed_request_is_its_own_exception(
    client: openai.AsyncOpenAI, fields: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(**{**chat(), **fields}, stream=stream)
        assert caught.value.param == param


@pytest.mark.parametrize(
    "suite_env", [{"WEAVER_RATELIMIT_RPS": "1", "WEAVER_RATELIMIT_BURST": "1"}]
)
async def test_too_many_requests_are_told_when_to_return(own_suite: Any) -> None:
    async with sdk(own_suite) as client:
        await client.chat.completions.create(**chat())
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**chat())
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.response.headers["retry-after"] == "1"
        assert 0 < int(caught.value.response.headers["retry-after-ms"]) <= 1000
        patient = client.with_options(max_retries=3)
        start = time.monotonic()
        await patient.chat.completions.create(**chat())
        assert time.monotonic() - start > 0.3
