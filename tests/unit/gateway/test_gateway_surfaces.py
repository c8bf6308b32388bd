"""Each surface takes the whole path, and tells the model service what is its own."""

from collections.abc import Sequence

import pytest

from services.common.errors import InvalidArgument
from services.gateway import anthropic, openai
from services.gateway.calls import Call, ContextExceeded, Surface, WholeResponse
from services.gateway.ports import ModelInfo, StreamEnd, StreamStart
from services.gateway.servicer import CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES
from tests.fakes.gateway import GENERATION, KEY, Suite

HELLO = b'"messages":[{"role":"user","content":"I am a.b@c.de"}]'
MESSAGE = b'{"model":"m","max_tokens":50,%b}' % HELLO
STREAMED = b'{"model":"m","max_tokens":50,"stream":true,%b}' % HELLO


def call(suite: Suite, surface: Surface, body: bytes) -> Call:
    headers = {
        "authorization": f"Bearer {KEY}",
        "anthropic-beta": "b-1",
        "anthropic-version": "v-1",
        "openai-organization": "o-1",
        "idempotency-key": "i-1",
        "cookie": "c=1",
    }
    return Call(
        "req-1", surface, body, lambda name: headers.get(name, ""), "", "", suite.clock.monotonic()
    )


def listing(suite: Suite, model: ModelInfo) -> None:
    async def models() -> Sequence[ModelInfo]:
        return [model]

    suite.model.models = models  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("surface", "body", "dialect", "headers"),
    [
        (CHAT, b'{"model":"m",%b}' % HELLO, "OPENAI_CHAT", {"openai-organization"}),
        (EMBEDDINGS, b'{"model":"m","input":"x"}', "OPENAI_EMBEDDINGS", {"openai-organization"}),
        (RESPONSES, b'{"model":"m","input":"x"}', "OPENAI_RESPONSES", {"openai-organization"}),
        (MESSAGES, MESSAGE, "ANTHROPIC_MESSAGES", {"anthropic-beta", "anthropic-version"}),
        (COUNT_TOKENS, MESSAGE, "ANTHROPIC_COUNT_TOKENS", {"anthropic-beta", "anthropic-version"}),
    ],
)
async def test_a_surface_has_its_dialect_and_its_headers(
    surface: Surface, body: bytes, dialect: str, headers: set[str]
) -> None:
    suite = Suite()
    listing(suite, ModelInfo("m", "fake", 0, 70, 0, 0, 0))
    response = await suite.pipeline.run(call(suite, surface, body))
    assert isinstance(response, WholeResponse)
    (asked,) = suite.model.calls
    assert asked.dialect == dialect
    assert {name for name, _ in asked.headers} == headers | {"idempotency-key"}
    assert asked.max_output_tokens == 70
    assert b"a.b@c.de" not in asked.body
    await suite.settle()
    kinds = [event.type.name for event in suite.log.events]
    assert kinds == ["INTENT", "OUTCOME"]
    assert suite.log.events[0].surface == surface.name


async def test_a_count_of_tokens_reserves_none() -> None:
    suite = Suite()
    await suite.pipeline.run(call(suite, COUNT_TOKENS, MESSAGE))
    ((_, _, tokens, cost),) = suite.limiter.reserved
    assert (tokens, cost) == (0, 0)


async def test_a_surface_that_nobody_can_be_reached_through_is_refused_before_anything() -> None:
    suite = Suite()
    reaching = frozenset({"OPENAI_CHAT", "ANTHROPIC_MESSAGES"})
    listing(suite, ModelInfo("m", "fake", 0, 0, 0, 0, 0, dialects=reaching))
    with pytest.raises(InvalidArgument, match="responses") as caught:
        await suite.pipeline.run(call(suite, RESPONSES, b'{"model":"m","input":"x"}'))
    assert caught.value.violations[0].field == "model"
    assert not suite.limiter.reserved
    assert not suite.model.calls
    assert [refused.count for refused in suite.refused()] == [1]
    await suite.pipeline.run(call(suite, MESSAGES, MESSAGE))


@pytest.mark.parametrize("surface", [CHAT, MESSAGES])
async def test_a_prompt_beyond_the_context_is_refused_before_anything(surface: Surface) -> None:
    suite = Suite()
    listing(suite, ModelInfo("m", "fake", 100, 0, 0, 0, 0))
    words = b'"messages":[{"role":"user","content":"%b"}]'
    long = b'{"model":"m","max_tokens":5,%b}' % (words % (b"word " * 100))
    with pytest.raises(ContextExceeded) as caught:
        await suite.pipeline.run(call(suite, surface, long))
    assert b'"context_length_exceeded"' in openai.error_body(caught.value, "r")
    assert b"prompt is too long" in anthropic.error_body(caught.value, "r").lower()
    assert not suite.limiter.reserved
    assert [refused.count for refused in suite.refused()] == [1]
    syntax = b'{"model":"m","max_tokens":5,%b,"x":[%b]}' % (words % b"short", b"1," * 400 + b"1")
    assert await suite.pipeline.run(call(suite, surface, syntax))


async def test_a_stream_of_messages_breaks_off_in_its_own_dialect() -> None:
    suite = Suite()
    start = StreamStart("text/event-stream", ())
    suite.model.steps = [start, StreamEnd(GENERATION, "PROVIDER_FAILED", "It broke.")]
    response = await suite.pipeline.run(call(suite, MESSAGES, STREAMED))
    assert not isinstance(response, WholeResponse)
    assert [piece async for piece in response] == []
    last = await response.last()
    await response.aclose()
    assert last.startswith(b"event: error\n")
    assert b'"api_error"' in last
    assert b"It broke." in last
