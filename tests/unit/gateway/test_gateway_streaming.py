"""A stream that has begun ends as its dialect says, whatever goes wrong."""

import asyncio
import gc
import threading
import weakref

import pytest

from services.common.health import Health
from services.gateway.calls import StreamedResponse, WholeResponse
from services.gateway.events import OutcomeStatus
from services.gateway.ports import StreamChunk, StreamEnd, StreamStart
from services.gateway.stream_redaction import StreamRedactor
from services.gateway.wiring import LAST_WORDS_S, _stop_streams
from tests.fakes.gateway import GENERATION, STREAM_BODY, Suite


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


@pytest.mark.parametrize(("events", "beside"), [(1, False), (100, True)])
async def test_many_events_at_once_are_redacted_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, events: int, beside: bool
) -> None:
    """Or one provider in a hurry would hold up everybody, `/health` included."""
    suite = Suite()
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a a a "}}]}\n\n'
    body = event * events
    suite.model.steps = [
        StreamStart("text/event-stream", ()),
        StreamChunk(body, terminal=False),
        StreamChunk(b"data: [DONE]\n\n", terminal=True),
        StreamEnd(GENERATION),
    ]
    threads: list[int] = []
    redact = StreamRedactor.events

    def seen(redactor: StreamRedactor, piece: bytes) -> bytes:
        threads.append(threading.get_ident())
        return redact(redactor, piece)

    monkeypatch.setattr(StreamRedactor, "events", seen)
    response = await opened(suite)
    pieces = [piece async for piece in response]
    last = await response.last()
    await response.aclose()
    assert b"".join([*pieces, last]).count(b'"a ') == events
    assert (threads[0] != threading.get_ident()) == beside


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_stream_that_is_stopped_ends_with_an_error_event(waiting: bool) -> None:
    suite = Suite(redact=False)
    response = await opened(suite)
    pieces = aiter(response)
    first = await anext(pieces)
    suite.model.open.clear()
    second = asyncio.ensure_future(anext(pieces, b""))
    if waiting:
        await asyncio.sleep(0.01)
        assert not second.done()
    suite.pipeline.stop_streams()
    async with asyncio.timeout(0.5):
        assert await second == b""
    last = await response.last()
    await response.aclose()
    assert b'"a"' in first
    assert b"restarting" in last
    assert b"[DONE]" not in last
    assert suite.model.closed == 1
    await suite.settle()
    outcome = suite.log.events[-1]
    assert (outcome.outcome, outcome.reason) == (OutcomeStatus.INTERRUPTED, "OVERLOADED")
    assert len(suite.limiter.settled) == 1


async def test_a_stream_that_is_complete_is_not_stopped() -> None:
    suite = Suite(redact=False)
    response = await opened(suite)
    assert len([piece async for piece in response]) == 1
    suite.pipeline.stop_streams()
    assert await response.last() == b"data: [DONE]\n\n"
    await response.aclose()
    await suite.settle()
    assert suite.log.events[-1].outcome is OutcomeStatus.COMPLETED


async def test_a_stream_that_has_ended_is_not_kept() -> None:
    suite = Suite(redact=False)
    response = await opened(suite)
    known = weakref.ref(response)
    await response.aclose()
    del response
    gc.collect()
    assert known() is None
    suite.pipeline.stop_streams()


async def test_streams_are_stopped_when_the_drain_is_nearly_over() -> None:
    suite, health = Suite(redact=False), Health()
    stopping = asyncio.create_task(_stop_streams(suite.pipeline, health, LAST_WORDS_S))
    response = await opened(suite)
    await anext(aiter(response))
    health.set("", serving=True)
    await asyncio.sleep(0.01)
    assert not stopping.done()
    health.drain()
    await stopping
    assert [piece async for piece in response] == []
    assert b"restarting" in await response.last()
    await response.aclose()
