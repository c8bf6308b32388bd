"""Both official SDKs through the front door, at providers of both kinds, in all four pairs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.e2e.clients import http, sdk, trust
from tests.e2e.test_e2e_upstream import recorded
from tests.fakes.playback import Playback, Played, stream
from tests.fakes.recordings import (
    ANTHROPIC_ANSWER,
    OPENAI_ANSWER,
    PNG,
    TOOL_SCHEMA,
    anthropic_stream,
    openai_stream,
    response_stream,
)

KEY = "sk-provider-secret"  # pragma: allowlist secret
CITIES = [{"city": "Ulm"}, {"city": "Köln"}]
IMAGE = f"data:image/png;base64,{PNG}"
# The SDKs parse the arguments of a strict tool as soon as they take them for complete.
WEATHER = {"name": "weather", "strict": True, "parameters": TOOL_SCHEMA}
OPENAI_ASK: Any = {
    "model": "real-model",
    "max_completion_tokens": 200,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather here?"},
                {"type": "image_url", "image_url": {"url": IMAGE}},
            ],
        },
    ],
    "tools": [{"type": "function", "function": WEATHER}],
    "tool_choice": "auto",
}
ANTHROPIC_ASK: Any = {
    "model": "real-model",
    "max_tokens": 200,
    "system": "Be brief.",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Weather here?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": PNG},
                },
            ],
        }
    ],
    "tools": [{"name": "weather", "strict": True, "input_schema": TOOL_SCHEMA}],
    "tool_choice": {"type": "auto"},
}


@pytest.fixture
async def vendor() -> AsyncIterator[Playback]:
    async with Playback() as running:
        yield running


def environment(provider: str, vendor: Playback) -> dict[str, str]:
    return {
        "WEAVER_MODEL_PROVIDER": provider,
        "WEAVER_MODEL_NAME": "real-model",
        "WEAVER_MODEL_ENDPOINT": vendor.base_url,
        "WEAVER_MODEL_API_KEY": KEY,
        "WEAVER_MODEL_RETRIES": "0",
        "WEAVER_MODEL_CONTEXT_TOKENS": "5000",
    }


def claude(suite: Any) -> anthropic.AsyncAnthropic:
    """Return the official Anthropic client, unmodified, pointed at the suite."""
    return anthropic.AsyncAnthropic(
        base_url=suite.url,
        api_key=suite.api_key,
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=trust(suite)),
    )


def in_thread(suite: Any, stream: bool) -> tuple[Any, Any]:
    """Ask with both SDKs' synchronous clients."""
    gpt = openai.OpenAI(
        base_url=f"{suite.url}/v1",
        api_key=suite.api_key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(verify=trust(suite)),
    )
    sync_claude = anthropic.Anthropic(
        base_url=suite.url,
        api_key=suite.api_key,
        max_retries=0,
        http_client=anthropic.DefaultHttpxClient(verify=trust(suite)),
    )
    with gpt, sync_claude:
        if not stream:
            completion = gpt.chat.completions.create(**OPENAI_ASK)
            return completion, sync_claude.messages.create(**ANTHROPIC_ASK)
        with gpt.chat.completions.stream(**OPENAI_ASK) as chat:
            for _ in chat:
                pass
            completion = chat.get_final_completion()
        with sync_claude.messages.stream(**ANTHROPIC_ASK) as said:
            for _ in said:
                pass
            return completion, said.get_final_message()


def check_completion(completion: ChatCompletion) -> None:
    """See the recorded answer as OpenAI's client does."""
    (choice,) = completion.choices
    assert choice.message.content == "Let me look."
    assert choice.finish_reason == "tool_calls"
    calls: Any = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert [json.loads(call.function.arguments) for call in calls] == CITIES
    assert len({call.id for call in calls}) == 2
    assert completion.model == "real-model"


def check_message(message: anthropic.types.Message) -> None:
    """See the recorded answer as Anthropic's client does."""
    texts = [block.text for block in message.content if block.type == "text"]
    tools = [block for block in message.content if block.type == "tool_use"]
    assert texts == ["Let me look."]
    assert [tool.input for tool in tools] == CITIES
    assert len({tool.id for tool in tools}) == 2
    assert (message.stop_reason, message.model) == ("tool_use", "real-model")


def check_usage(completion: ChatCompletion | None, message: anthropic.types.Message) -> None:
    if completion is not None:
        assert completion.usage is not None
        details: Any = completion.usage.prompt_tokens_details
        reasoned: Any = completion.usage.completion_tokens_details
        assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (22, 20)
        assert (details.cached_tokens, reasoned.reasoning_tokens) == (7, 4)
    used = message.usage
    fresh = used.input_tokens + (used.cache_creation_input_tokens or 0)
    assert (fresh, used.cache_read_input_tokens, used.output_tokens) == (15, 7, 20)


async def all_clients(suite: Any, vendor: Playback, whole: Played, streamed: Played) -> None:
    """Ask for the same, whole and streamed, with four clients."""
    vendor.play(*([whole] * 4), *([streamed] * 4))
    completion, message = await asyncio.to_thread(in_thread, suite, False)
    check_completion(completion)
    check_message(message)
    check_usage(completion, message)
    async with sdk(suite) as gpt, claude(suite) as bot:
        check_completion(await gpt.chat.completions.create(**OPENAI_ASK))
        check_message(await bot.beta.messages.create(**ANTHROPIC_ASK))
        completion, message = await asyncio.to_thread(in_thread, suite, True)
        check_completion(completion)
        check_message(message)
        check_usage(None, message)
        asked = OPENAI_ASK | {"stream_options": {"include_usage": True}}
        async with gpt.chat.completions.stream(**asked) as chat:
            completion = await chat.get_final_completion()
        async with bot.messages.stream(**ANTHROPIC_ASK) as said:
            message = await said.get_final_message()
        check_completion(completion)
        check_message(message)
        check_usage(completion, message)


async def refusals(suite: Any, vendor: Playback, error: dict[str, Any]) -> None:
    """A provider's refusal is each SDK's own exception, whichever vendor wrote it."""
    async with sdk(suite) as gpt, claude(suite) as bot:
        for status, gpt_error, bot_error in (
            (400, openai.BadRequestError, anthropic.BadRequestError),
            (404, openai.NotFoundError, anthropic.NotFoundError),
            (429, openai.RateLimitError, anthropic.RateLimitError),
            (500, openai.InternalServerError, anthropic.InternalServerError),
            (401, openai.InternalServerError, anthropic.InternalServerError),
        ):
            vendor.play(Played(error, status), Played(error, status))
            with pytest.raises(gpt_error) as of_gpt:
                await gpt.chat.completions.create(**OPENAI_ASK)
            with pytest.raises(bot_error) as of_bot:
                await bot.messages.create(**ANTHROPIC_ASK)
            body: Any = of_bot.value.body
            assert body["type"] == "error"
            if status in {400, 404}:
                assert "too many tools" in of_gpt.value.message
                assert body["error"]["message"] == "too many tools"
                assert of_gpt.value.type == "invalid_request_error"
        long: Any = [{"role": "user", "content": "too long " * 5000}]
        with pytest.raises(openai.BadRequestError) as exceeded:
            await gpt.chat.completions.create(**OPENAI_ASK | {"messages": long})
        assert exceeded.value.code == "context_length_exceeded"
        with pytest.raises(anthropic.BadRequestError, match="too long"):
            await bot.messages.create(**ANTHROPIC_ASK | {"messages": long})


async def cut_streams(suite: Any, vendor: Playback, cut: Played) -> None:
    """A stream that is cut never looks whole to either SDK, on either protocol."""
    vendor.play(*([cut] * 4))
    async with sdk(suite) as gpt, claude(suite) as bot:
        with pytest.raises(openai.APIError):
            async for _ in await gpt.chat.completions.create(**OPENAI_ASK, stream=True):
                pass
        with pytest.raises(anthropic.APIStatusError) as caught:
            async for _ in await bot.messages.create(**ANTHROPIC_ASK, stream=True):
                pass
        body: Any = caught.value.body
        assert body["error"]["type"] == "api_error"
    for http2 in (False, True):
        async with http(suite, http2=http2) as client:
            answer = await client.post("/v1/messages", json=ANTHROPIC_ASK | {"stream": True})
        assert answer.status_code == 200
        outcome = await recorded(suite, answer.headers["x-request-id"], "outcome")
        assert (outcome["outcome"], outcome["reason"]) == ("interrupted", "PROVIDER_FAILED")
        assert outcome["usage"]["estimated"] is True
        assert "message_stop" not in answer.text
        assert "stop_reason" not in answer.text.partition("content_block_start")[2]
        assert answer.text.strip().split("\n\n")[-1].startswith("event: error\n")


async def test_an_openai_provider_in_both_dialects(
    vendor: Playback, start_suite: Any, topology: str
) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    suite = start_suite(topology, environment("openai", vendor))
    await all_clients(suite, vendor, Played(OPENAI_ANSWER), stream(openai_stream()))
    sent = [request for request in vendor.requests if request.json.get("stream") is not True]
    translated = sent[1].json
    assert {request.path for request in vendor.requests} == {"/v1/chat/completions"}
    assert {request.headers["authorization"] for request in sent} == {f"Bearer {KEY}"}
    assert translated["messages"] == OPENAI_ASK["messages"]
    assert translated["tools"] == OPENAI_ASK["tools"]
    await refusals(
        suite,
        vendor,
        {"error": {"message": "too many tools", "type": "invalid_request_error", "code": None}},
    )
    await cut_streams(suite, vendor, stream(openai_stream(end=False), cut=True))
    await _responses(suite, vendor)
    await _untranslatable(suite)
    await _personal_data(suite, vendor, stream(openai_stream(text=("Ask a@", "b.de now"))))


async def test_an_anthropic_provider_in_both_dialects(
    vendor: Playback, start_suite: Any, topology: str
) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    without_version = {"WEAVER_MODEL_ENDPOINT": vendor.base_url.removesuffix("/v1")}
    suite = start_suite(topology, environment("anthropic", vendor) | without_version)
    await all_clients(suite, vendor, Played(ANTHROPIC_ANSWER), stream(anthropic_stream()))
    sent = [request for request in vendor.requests if request.json.get("stream") is not True]
    translated = sent[0].json
    assert {request.path.partition("?")[0] for request in vendor.requests} == {"/v1/messages"}
    assert {request.headers["x-api-key"] for request in sent} == {KEY}
    versions = [request.headers["anthropic-version"] for request in sent]
    assert versions[0] == "2023-06-01"
    assert versions[1] == anthropic.Anthropic(api_key="x").default_headers["anthropic-version"]
    assert translated["messages"] == ANTHROPIC_ASK["messages"]
    assert translated["tools"] == ANTHROPIC_ASK["tools"]
    assert translated["max_tokens"] == 200
    await refusals(
        suite,
        vendor,
        {"type": "error", "error": {"type": "invalid_request_error", "message": "too many tools"}},
    )
    await cut_streams(suite, vendor, stream(anthropic_stream(end=False), cut=True))
    await _byte_for_byte(suite, vendor)
    await _personal_data(suite, vendor, stream(anthropic_stream(text=("Ask a@", "b.de now"))))
    async with sdk(suite) as gpt:
        for asking in (
            gpt.responses.create(model="real-model", input="x"),
            gpt.embeddings.create(model="real-model", input="x"),
        ):
            with pytest.raises(openai.BadRequestError, match="cannot be reached"):
                await asking
        with pytest.raises(openai.BadRequestError) as caught:
            await gpt.chat.completions.create(**OPENAI_ASK, seed=7)
        assert caught.value.param == "seed"


async def _responses(suite: Any, vendor: Playback) -> None:
    events = response_stream()
    whole = json.loads(events.strip().split(b"\ndata: ")[-1])["response"]
    vendor.play(Played(whole), stream(events), stream(response_stream(end=False)))
    async with sdk(suite) as gpt:
        response = await gpt.responses.create(model="real-model", input="Hi")
        assert response.output_text == "Let me look."
        async with gpt.responses.stream(model="real-model", input="Hi") as said:
            final = await said.get_final_response()
        assert final.output_text == "Let me look."
        assert final.usage is not None
        assert final.usage.total_tokens == 42
        with pytest.raises(openai.APIError):
            async for _ in await gpt.responses.create(model="real-model", input="x", stream=True):
                pass
        vendor.play(Played({"detail": "Not Found"}, 404))
        with pytest.raises(openai.NotFoundError, match="does not speak"):
            await gpt.responses.create(model="real-model", input="Hi")
        vendor.play(
            Played(
                {
                    "object": "list",
                    "model": "real-model",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1e-05]}],
                    "usage": {"prompt_tokens": 1, "total_tokens": 1},
                }
            )
        )
        embedded = await gpt.embeddings.create(
            model="real-model", input="x", encoding_format="float"
        )
        assert embedded.data[0].embedding == [0.5, 1e-05]


async def _untranslatable(suite: Any) -> None:
    async with claude(suite) as bot:
        with pytest.raises(anthropic.BadRequestError, match="top_k"):
            await bot.messages.create(**ANTHROPIC_ASK, extra_body={"top_k": 4})
        count = await bot.messages.count_tokens(
            model="real-model", messages=[{"role": "user", "content": "eight by"}]
        )
        assert count.input_tokens > 0
        assert [model.id async for model in bot.models.list()] == ["real-model"]
        assert (await bot.models.retrieve("real-model")).max_input_tokens == 5000


async def _byte_for_byte(suite: Any, vendor: Playback) -> None:
    body = (
        b'{ "messages" : [ {"content":"\\u00fc\\/","role":"user","x":{"b":1,"a":2}} ],\n'
        b' "temperature":1.0,"top_p":1e0,"max_tokens":1e2,"new":[1.50,2e-7],"model":"real-model" }'
    )
    answer = json.dumps(ANTHROPIC_ANSWER, indent=3).encode()
    vendor.play(Played(answer, headers={"request-id": "req_9", "anthropic-organization-id": "o"}))
    headers = {"anthropic-beta": "some-beta", "x-api-key": suite.api_key, "authorization": ""}
    async with http(suite) as client:
        reply = await client.post("/v1/messages?beta=true", content=body, headers=headers)
    assert reply.content == answer
    assert reply.headers["x-upstream-request-id"] == "req_9"
    assert "anthropic-organization-id" not in reply.headers
    sent = vendor.requests[-1]
    assert sent.body == body
    assert sent.headers["anthropic-beta"] == "some-beta"
    assert suite.api_key not in str(sent.headers)
    intent = await recorded(suite, reply.headers["x-request-id"], "intent")
    outcome = await recorded(suite, reply.headers["x-request-id"], "outcome")
    assert (intent["surface"], outcome["provider"]) == ("messages", "anthropic")
    used = outcome["usage"]
    assert (used["input_tokens"], used["output_tokens"]) == (22, 20)
    vendor.play(stream(anthropic_stream()), Played({"input_tokens": 12}))
    async with http(suite) as client:
        reply = await client.post("/v1/messages", json=ANTHROPIC_ASK | {"stream": True})
        ending = anthropic_stream().partition(b"event: message_delta")[2]
        assert reply.content.endswith(ending)
        capped = {
            "model": "real-model",
            "max_tokens": 99_999,
            "messages": ANTHROPIC_ASK["messages"],
        }
        count = await client.post("/v1/messages/count_tokens", json=capped)
        assert count.json() == {"input_tokens": 12}
        vendor.play(Played(ANTHROPIC_ANSWER))
        await client.post("/v1/messages", json=capped)
    assert vendor.requests[-1].json["max_tokens"] == 4096


async def _personal_data(suite: Any, vendor: Playback, said: Played) -> None:
    """Nobody's address leaves or returns, in whichever dialect it stands."""
    vendor.play(said, said)
    messages: Any = [{"role": "user", "content": "I am c@d.de"}]
    async with http(suite) as client:
        for path in ("/v1/messages", "/v1/chat/completions"):
            body = {"model": "real-model", "stream": True, "messages": messages, "max_tokens": 50}
            answer = await client.post(path, json=body)
            assert "a@" not in answer.text
            assert "b.de" not in answer.text
            assert "[EMAIL_" in answer.text
            assert "c@d.de" not in vendor.requests[-1].body.decode()
