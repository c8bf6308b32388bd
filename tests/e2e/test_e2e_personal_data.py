"""Personal data through the front door, with both official SDKs: the provider never sees it."""

import base64
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.e2e.clients import chat, http, sdk
from tests.e2e.test_e2e_dialects import claude
from tests.fakes.upstream import Upstream

CARD = "4111 1111 1111 1111"
IBAN = "DE89 3704 0044 0532 0130 00"
POLICY = """
version: 1
types: {email: pseudonymize, phone: pseudonymize, iban: block}
blocked_patterns: [{name: birds, pattern: 'nightjar'}]
"""


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "content-policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def guarded(upstream: Upstream, policy: Path, start_suite: Any, topology: str) -> Any:
    return start_suite(
        topology,
        {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "gpt-test",
            "WEAVER_MODEL_ENDPOINT": upstream.base_url,
            "WEAVER_MODEL_API_KEY": "sk-provider-secret",
            "WEAVER_CONTENT_POLICY_FILE": str(policy),
            "WEAVER_AUDIT_CAPTURE": "redacted",
            "WEAVER_REQUEST_MAX_TOOLS": "2",
            "WEAVER_PII_PHONE_REGIONS": "US,DE",
            "WEAVER_PII_MAX_CHECKS": "1000",
            "WEAVER_PII_FILES": "documents=block",
        },
    )


def ask(text: str, **fields: Any) -> Any:
    return chat(text, **fields) | {"model": "gpt-test"}


async def captured(suite: Any, request_id: str) -> list[str]:
    """Return the texts that the log keeps beside a request's records, once there are two."""
    end = time.monotonic() + 10
    async with http(suite) as client:
        while True:
            found = []
            page = await client.get("/v1/audit/records", params={"request_id": request_id})
            for record in page.json()["records"]:
                texts = await client.get(f"/v1/audit/records/{record['index']}/texts")
                if texts.status_code == 200:
                    found += [json.dumps(texts.json())]
            if len(found) >= 2:
                return found
            assert time.monotonic() < end, "the texts were not kept"


async def test_the_provider_never_sees_what_returns_to_the_caller(
    upstream: Upstream, guarded: Any, policy: Path
) -> None:
    """One suite serves the whole of this test, since each start costs seconds."""
    text = f"Write to Bob@Example.com or +49 30 901820, card {CARD}."
    said = "You said: Write to Bob@Example.com or +49 30 901820, card [CARD_1]."
    async with sdk(guarded) as client:
        question: Any = [{"role": "user", "content": text}]
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-test", messages=question
        )
        assert raw.parse().choices[0].message.content == said
        sent = upstream.requests[-1].body.decode()
        assert "[EMAIL_1] or [PHONE_1], card [CARD_1]" in sent
        streamed = await client.chat.completions.create(
            model="gpt-test", messages=question, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in streamed if chunk.choices]
        assert "".join(pieces) == said
        assert "Bob" not in upstream.requests[-1].body.decode()
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                model="gpt-test", messages=[{"role": "user", "content": f"pay {IBAN}"}]
            )
        assert "IBAN" in str(refused.value)
        assert "DE89" not in str(refused.value)
        assert refused.value.param == "messages[0].content"
        assert refused.value.code == "content_blocked"
    async with claude(guarded) as client:
        message = await client.messages.create(
            model="gpt-test",
            max_tokens=100,
            system="Their address is carol@example.org.",
            messages=[{"role": "user", "content": text}],
        )
        block = message.content[0]
        assert block.type == "text"
        assert block.text == said
        assert "carol@" not in upstream.requests[-1].body.decode()
        async with client.messages.stream(
            model="gpt-test", max_tokens=100, messages=[{"role": "user", "content": text}]
        ) as stream:
            assert await stream.get_final_text() == said
        with pytest.raises(anthropic.BadRequestError, match="birds"):
            await client.messages.create(
                model="gpt-test",
                max_tokens=100,
                messages=[{"role": "user", "content": "about a nightjar"}],
            )
    kept = await captured(guarded, raw.headers["x-request-id"])
    assert "[EMAIL_1]" in "".join(kept)
    assert "Bob@" not in "".join(kept)

    policy.write_text("version: 1\ntypes: {card: pass}\n")  # noqa: ASYNC240 - a line
    async with http(guarded) as client:
        end = time.monotonic() + 10
        while True:
            answer = await client.post("/v1/chat/completions", json=ask(text))
            if CARD in answer.text:
                break
            assert time.monotonic() < end, "the policy was not read again"
        assert "[EMAIL_1]" in answer.text
        await _refuses_what_no_request_may_be(client, upstream)
    await _searches_documents(guarded, upstream)


async def _searches_documents(suite: Any, upstream: Upstream) -> None:
    """Promise: a text document hides nothing, and what cannot be searched does not leave."""

    def file(content: bytes, media_type: str) -> Any:
        data = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
        part = {"type": "file", "file": {"filename": "a", "file_data": data}}
        return [{"role": "user", "content": [part]}]

    text = b"Bob;bob@example.com;(650) 253-0000;030 / 90 18 20\n"
    async with sdk(suite) as client:
        await client.chat.completions.create(model="gpt-test", messages=file(text, "text/csv"))
        sent = json.loads(upstream.requests[-1].body)["messages"][0]["content"][0]["file"]
        searched = base64.b64decode(sent["file_data"].partition(",")[2])
        assert searched == b"Bob;[EMAIL_1];[PHONE_1];[PHONE_2]\n"
        before = len(upstream.requests)
        for messages, code in (
            (file(b"%PDF-1.7 bob@example.com", "application/pdf"), "content_blocked"),
            (file(b" ".join(b"b%d@x.org" % n for n in range(2000)), ""), "content_unsearchable"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model="gpt-test", messages=messages)
            assert refused.value.code == code
        assert len(upstream.requests) == before
    async with claude(suite) as other:
        with pytest.raises(anthropic.BadRequestError, match="checks are allowed"):
            await other.messages.create(
                model="gpt-test",
                max_tokens=100,
                messages=[{"role": "user", "content": "1 2 3 " * 20_000}],
            )


async def _refuses_what_no_request_may_be(client: Any, upstream: Upstream) -> None:
    before = len(upstream.requests)
    for body, param in (
        (b'{"model":"gpt-test","messages":[{"role":"user","role":"user","content":"x"}]}', "role"),
        (json.dumps(ask("nul \0 here")).encode(), "messages[0].content"),
        (json.dumps(ask("x", tools=[{"type": "function"}] * 3)).encode(), "tools"),
        (b'{"model":"gpt-test","messages":[{"role":"user","content":"x"}],"n":1e999}', None),
        (b'{"a":' * 200 + b"1" + b"}" * 200, None),
        (b'{"model":"gpt-test","messages":[{"role":"user","content":"\xff"}]}', None),
        (
            json.dumps(
                ask("x")
                | {
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "image_url", "image_url": {"url": "http://0x7f.1/a.png"}}
                            ],
                        }
                    ]
                }
            ).encode(),
            "messages[0].content[0].image_url.url",
        ),
    ):
        answer = await client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, (body[:80], answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        if param is not None:
            assert error["param"] == param
    assert len(upstream.requests) == before
