"""What a call uses beyond its bound is charged and recorded; estimates never go beyond it."""

import pytest

from services.common.errors import Unavailable
from services.gateway.calls import WholeResponse
from services.gateway.events import OutcomeStatus, Usage
from services.gateway.ports import Generation, StreamChunk, StreamEnd, StreamStart
from tests.fakes.gateway import STREAM_BODY, Suite

BODY = b'{"model":"m","stream":true,"max_tokens":4,"messages":[{"role":"user","content":"hi"}]}'


async def read(suite: Suite, body: bytes = STREAM_BODY) -> None:
    response = await suite.pipeline.run(suite.call(body))
    assert not isinstance(response, WholeResponse)
    async for _ in response:
        pass
    await response.last()
    await response.aclose()
    await suite.settle()


@pytest.mark.parametrize(
    ("extra_tokens", "extra_cost", "attributes"),
    [
        (0, 0, {}),
        (9, 0, {"tokens_beyond_bound": "9"}),
        (0, 3, {"cost_micros_beyond_bound": "3"}),
        (9, 3, {"tokens_beyond_bound": "9", "cost_micros_beyond_bound": "3"}),
    ],
)
async def test_what_a_provider_reports_beyond_the_bound_is_recorded_and_charged(
    extra_tokens: int, extra_cost: int, attributes: dict[str, str]
) -> None:
    suite = Suite()
    await read(suite)
    ((_, _, tokens, cost),) = suite.limiter.reserved
    usage = Usage(tokens, extra_tokens)
    suite.model.steps[-1] = StreamEnd(Generation("fake", "m-1", usage, cost + extra_cost))
    await read(suite)
    outcome = suite.log.events[-1]
    assert (outcome.outcome, outcome.attributes) == (OutcomeStatus.COMPLETED, attributes)
    assert suite.limiter.settled[-1] == (usage, cost + extra_cost)


async def test_an_estimate_of_what_was_used_never_goes_beyond_the_bound() -> None:
    """Promise 6: budgets are exceeded by what a provider reports, and by nothing else."""
    suite = Suite(redact=False)
    many = b"".join([b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'] * 50)
    suite.model.steps = [
        StreamStart("text/event-stream", ()),
        StreamChunk(many, terminal=False),
        Unavailable("gone", reason="PROVIDER_FAILED"),
    ]
    await read(suite, BODY)
    ((_, _, tokens, cost),) = suite.limiter.reserved
    ((usage, charged),) = suite.limiter.settled
    assert usage is not None
    assert (usage.estimated, usage.output_tokens) == (True, 4)
    assert (usage.input_tokens + usage.output_tokens, charged) == (tokens, cost)
    assert suite.log.events[-1].attributes == {}
