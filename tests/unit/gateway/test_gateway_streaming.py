"""A stream that has begun ends as its dialect says, whatever goes wrong."""

import pytest

from services.gateway.calls import StreamedResponse, WholeResponse
from services.gateway.events import OutcomeStatus
from tests.fakes.gateway import STREAM_BODY, Suite


async def opened(suite: Suite) -> StreamedResponse:
    response = await suite.pipeline.run(suite.call(STREAM_BODY))
    assert not isinstance(response, WholeResponse)
    return response


async def test_a_redaction_that_fails_ends_the_stream_with_an_error_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = Suite()

    def fail(*_: object) -> bytes:
        raise KeyError

    monkeypatch.setattr("services.gateway.stream_redaction.StreamRedactor.events", fail)
    response = await opened(suite)
    assert [piece async for piece in response] == []
    last = await response.last()
    await response.aclose()
    assert b'"error"' in last
    assert b"[DONE]" not in last
    assert suite.model.closed == 1
    await suite.settle()
    outcome = suite.log.events[-1]
    assert (outcome.outcome, outcome.reason) == (OutcomeStatus.INTERRUPTED, "INTERNAL")
    ((usage, cost),) = suite.limiter.settled
    assert usage is not None
    assert (usage.estimated, usage.output_tokens, cost > 0) == (True, 1, True)
