"""The promises about the path of one request, each with the ways it could be broken."""

import asyncio
import hashlib
import hmac

import pytest

from services.common.errors import InvalidArgument, NotFound, Unauthenticated, Unavailable
from services.gateway.calls import LimitExceeded, WholeResponse
from services.gateway.events import Event, EventType, LimitDecision, OutcomeStatus
from services.gateway.ports import Admission, StreamChunk, StreamEnd, StreamStart
from tests.fakes.gateway import BODY, GENERATION, STREAM_BODY, FakeLog, FakeModel, Suite


def kinds(events: list[Event]) -> list[EventType]:
    return [event.type for event in events]


async def read(response: object) -> bytes:
    assert not isinstance(response, WholeResponse)
    pieces = [piece async for piece in response]  # type: ignore[attr-defined]
    pieces.append(await response.last())  # type: ignore[attr-defined]
    await response.aclose()  # type: ignore[attr-defined]
    return b"".join(pieces)


async def test_nothing_leaves_unrecorded() -> None:
    """Promise 1: no prompt reaches a provider before its intent record is durable."""
    suite = Suite()
    suite.log.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.log.asked.wait()
    await asyncio.sleep(0)
    assert suite.model.calls == []
    suite.log.open.set()
    await request
    assert len(suite.model.calls) == 1
    assert kinds(suite.log.events) == [EventType.INTENT, EventType.OUTCOME]


async def test_nothing_returns_unrecorded() -> None:
    """Promise 2: no complete response is released before its outcome record is durable."""
    suite = Suite()
    suite.model.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    suite.log.open.clear()
    suite.log.asked.clear()
    suite.model.open.set()
    await suite.log.asked.wait()
    await asyncio.sleep(0)
    assert not request.done()
    suite.log.open.set()
    response = await request
    assert isinstance(response, WholeResponse)
    assert response.record is not None
    assert response.record.index == 1


async def test_a_streams_terminal_event_is_not_released_unrecorded() -> None:
    """Promise 2, for a stream: its terminal event waits for the outcome record."""
    suite = Suite(redact=False)
    response = await suite.pipeline.run(suite.call(STREAM_BODY))
    assert not isinstance(response, WholeResponse)
    assert b"[DONE]" not in b"".join([piece async for piece in response])
    suite.log.open.clear()
    last = asyncio.ensure_future(response.last())
    await asyncio.sleep(0.01)
    assert not last.done()
    suite.log.open.set()
    assert await last == b"data: [DONE]\n\n"
    assert response.record is not None
    await response.aclose()
    assert suite.log.events[-1].outcome is OutcomeStatus.COMPLETED


async def test_an_outcome_that_is_not_confirmed_withholds_the_answer() -> None:
    suite = Suite()
    suite.model.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    suite.log.open.clear()
    suite.clock.now += 0.99
    suite.model.open.set()
    with pytest.raises(Unavailable) as caught:
        await request
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    suite.log.open.set()
    await suite.settle()
    assert kinds(suite.log.events) == [EventType.INTENT, EventType.OUTCOME]


@pytest.mark.parametrize(
    ("key", "body", "error"),
    [
        ("wrong", BODY, Unauthenticated),
        ("", BODY, Unauthenticated),
        ("a-key", b"{", InvalidArgument),
        ("a-key", b'{"model":"x","messages":[{"role":"user"}]}', NotFound),
    ],
)
async def test_each_refused_request_is_counted_once(
    key: str, body: bytes, error: type[Exception]
) -> None:
    """Promise 3: a refused request is in exactly one refusal record, and in no other."""
    suite = Suite()
    for _ in range(3):
        with pytest.raises(error):
            await suite.pipeline.run(suite.call(body, key=key))
    await suite.settle()
    assert suite.log.events == []
    assert [event.count for event in suite.refused()] == [3]
    assert suite.limiter.reserved == []


async def test_a_request_over_its_limit_is_counted_and_told_when_to_return() -> None:
    suite = Suite()
    refusal = LimitDecision("refused", "requests")
    suite.limiter.admission = Admission(b"", admitted=False, decision=refusal, retry_after_s=1.5)
    with pytest.raises(LimitExceeded) as caught:
        await suite.pipeline.run(suite.call())
    assert caught.value.retry_after_s == 1.5
    assert [event.reason for event in suite.refused()] == ["RATE_LIMITED"]
    assert suite.model.calls == []


@pytest.mark.parametrize("role", ["auditor", "nobody"])
async def test_a_role_without_the_scope_is_refused(role: str) -> None:
    suite = Suite(roles=(role,))
    with pytest.raises(Exception, match="roles"):
        await suite.pipeline.run(suite.call())
    assert [event.reason for event in suite.refused()] == ["PERMISSION_DENIED"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Unavailable("gone", reason="PROVIDER_FAILED"), "PROVIDER_FAILED"), (KeyError(), "INTERNAL")],
)
async def test_a_failed_call_has_one_intent_and_one_outcome(error: Exception, reason: str) -> None:
    """Promise 3: each admitted request has exactly one intent and one outcome."""
    suite = Suite()
    suite.model.error = error
    with pytest.raises(type(error)):
        await suite.pipeline.run(suite.call())
    await suite.settle()
    intent, outcome = suite.log.events
    assert (outcome.outcome, outcome.reason) == (OutcomeStatus.FAILED, reason)
    assert outcome.intent_id == intent.id
    assert suite.limiter.settled == [(None, 0)]
    assert suite.refused() == []


@pytest.mark.parametrize("moment", ["limiter", "intent", "model", "outcome"])
async def test_a_client_that_leaves_is_accounted_for(moment: str) -> None:
    """Promise 3, whatever the moment of the cancellation."""
    suite = Suite()
    gates: dict[str, FakeLog | FakeModel] = {
        "intent": suite.log,
        "model": suite.model,
        "outcome": suite.model,
    }
    gate = gates.get(moment)
    if gate is not None:
        gate.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    if gate is None:
        await asyncio.sleep(0)
    else:
        await gate.asked.wait()
    if moment == "outcome":
        suite.log.open.clear()
        suite.log.asked.clear()
        suite.model.open.set()
        await suite.log.asked.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    suite.log.open.set()
    await suite.settle()
    refused = suite.refused()
    if refused:
        assert suite.log.events == []
        assert [event.reason for event in refused] == ["CANCELLED"]
        return
    assert kinds(suite.log.events) == [EventType.INTENT, EventType.OUTCOME]
    expected = OutcomeStatus.COMPLETED if moment == "outcome" else OutcomeStatus.CANCELLED
    assert suite.log.events[1].outcome is expected
    assert len(suite.limiter.settled) == 1


@pytest.mark.parametrize("pieces", [0, 1])
async def test_a_client_that_leaves_a_stream_is_accounted_for(pieces: int) -> None:
    suite = Suite(redact=False)
    response = await suite.pipeline.run(suite.call(STREAM_BODY))
    assert not isinstance(response, WholeResponse)
    iterator = aiter(response)
    for _ in range(pieces):
        await anext(iterator)
    await response.aclose()
    assert suite.model.closed == 1
    await suite.settle()
    assert kinds(suite.log.events) == [EventType.INTENT, EventType.OUTCOME]
    assert suite.log.events[1].outcome is OutcomeStatus.CANCELLED
    usage, cost = suite.limiter.settled[0]
    assert usage is not None
    assert (usage.estimated, usage.output_tokens) == (True, pieces)
    assert cost == usage.input_tokens + 2 * pieces


async def test_leaving_early_is_no_way_around_a_budget() -> None:
    suite = Suite()
    suite.model.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    ((_, _, reserved, _),) = suite.limiter.reserved
    usage, _ = suite.limiter.settled[0]
    assert usage is not None
    assert usage.input_tokens + usage.output_tokens == reserved


@pytest.mark.parametrize(
    "broken",
    [
        [StreamEnd(GENERATION, "PROVIDER_FAILED", "cut")],
        [Unavailable("gone", reason="PROVIDER_FAILED")],
        [],
    ],
)
async def test_a_stream_that_breaks_off_ends_with_an_error_event(broken: list[object]) -> None:
    suite = Suite(redact=False)
    text = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    suite.model.steps = [
        StreamStart("text/event-stream", ()),
        StreamChunk(text, terminal=False),
        *broken,  # type: ignore[list-item]
    ]
    body = await read(await suite.pipeline.run(suite.call(STREAM_BODY)))
    assert body.startswith(text)
    assert b'"error"' in body
    assert b"[DONE]" not in body
    await suite.settle()
    outcome = suite.log.events[-1]
    assert (outcome.outcome, outcome.reason) == (OutcomeStatus.INTERRUPTED, "PROVIDER_FAILED")


async def test_a_stream_that_stalls_ends_with_an_error_event() -> None:
    suite = Suite(redact=False)
    response = await suite.pipeline.run(suite.call(STREAM_BODY))
    suite.model.open.clear()
    body = await read(response)
    assert b"stopped answering" in body
    assert suite.model.closed == 1


async def test_a_stream_that_fails_before_it_begins_is_an_error() -> None:
    suite = Suite()
    suite.model.steps = [Unavailable("gone", reason="PROVIDER_FAILED")]
    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call(STREAM_BODY))
    await suite.settle()
    assert suite.log.events[-1].outcome is OutcomeStatus.FAILED


async def test_while_the_log_does_not_answer_calls_are_refused_before_they_are_numbered() -> None:
    suite = Suite()
    suite.log.errors = [Unavailable("down")]
    with pytest.raises(Unavailable) as caught:
        await suite.pipeline.run(suite.call())
    assert caught.value.reason == "AUDIT_UNAVAILABLE"
    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call())
    await suite.settle()
    assert [event.id.sequence for event in suite.log.events if event.id] == [1, 2]
    assert kinds(suite.log.events) == [EventType.INTENT, EventType.OUTCOME]
    assert [event.count for event in suite.refused()] == [1]
    assert suite.model.calls == []
    await suite.pipeline.run(suite.call())


async def test_the_reservation_bounds_tokens_and_price() -> None:
    suite = Suite()
    body = b'{"model":"m","n":2,"max_tokens":10,"messages":[{"role":"user","content":"hi"}]}'
    await suite.pipeline.run(suite.call(body))
    ((principal, model, tokens, cost),) = suite.limiter.reserved
    prompt = len(body) // 4 + 1
    assert (principal.tenant, model, tokens, cost) == ("t", "m", prompt + 20, prompt + 40)
    assert suite.limiter.settled == [(GENERATION.usage, GENERATION.cost_micros)]


async def test_a_body_with_nothing_to_edit_leaves_as_it_came() -> None:
    suite = Suite()
    body = b'{ "z":1e5, "model":"m","a":1.0,"messages":[{"content":"hi","role":"user"}] }'
    await suite.pipeline.run(suite.call(body))
    assert suite.model.calls[0].body is body


async def test_personal_data_does_not_leave_and_is_counted() -> None:
    suite = Suite()
    body = b'{"model":"m","messages":[{"role":"user","content":"I am bob@example.com"}]}'
    suite.model.answer = b'{"choices":[{"message":{"content":"Hi ann@example.com"}}]}'
    response = await suite.pipeline.run(suite.call(body))
    assert isinstance(response, WholeResponse)
    assert b"bob" not in suite.model.calls[0].body
    assert b"ann@example.com" not in response.body
    await suite.settle()
    intent, outcome = suite.log.events
    assert intent.redactions == (("PROMPT", "EMAIL", 1),)
    assert outcome.redactions == (("ANSWER", "EMAIL", 1),)


async def test_commitments_bind_the_record_to_the_texts() -> None:
    suite = Suite()
    body = b'{"model":"m","messages":[{"role":"user","content":"I am bob@example.com"}]}'
    await suite.pipeline.run(suite.call(body))
    for event, texts in zip(
        suite.log.events,
        (
            {"PROMPT_RECEIVED": body, "PROMPT_SENT": suite.model.calls[0].body},
            {"ANSWER_RECEIVED": suite.model.answer, "ANSWER_SENT": suite.model.answer},
        ),
        strict=True,
    ):
        assert event.commitments is not None
        key = event.commitments.key
        assert dict(event.commitments.values) == {
            kind: hmac.new(key, text, hashlib.sha256).digest() for kind, text in texts.items()
        }


async def test_a_request_larger_than_its_limit_is_not_told_to_return() -> None:
    suite = Suite()
    refusal = LimitDecision("refused", "tokens")
    suite.limiter.admission = Admission(b"", admitted=False, decision=refusal)
    with pytest.raises(LimitExceeded, match="smaller") as caught:
        await suite.pipeline.run(suite.call())
    assert caught.value.retry_after_s is None


async def test_a_body_that_is_no_text_is_refused_and_counted() -> None:
    """Promises 3 and 8: whatever the bytes, never a 500, and counted once."""
    suite = Suite()
    body = b'{"model":"m","messages":[{"role":"user","content":"\xff bob@example.com"}]}'
    with pytest.raises(InvalidArgument):
        await suite.pipeline.run(suite.call(body))
    assert [event.reason for event in suite.refused()] == ["INVALID_REQUEST"]
    assert suite.limiter.reserved == []


async def test_a_defect_before_the_intent_is_counted_and_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = Suite()

    def fail(*_: object) -> bytes:
        raise KeyError

    monkeypatch.setattr("services.gateway.redaction.Redactor.prompt", fail)
    with pytest.raises(KeyError):
        await suite.pipeline.run(suite.call())
    assert [event.reason for event in suite.refused()] == ["INTERNAL"]
    assert suite.limiter.settled == [(None, 0)]
    assert suite.log.events == []


async def test_what_a_provider_says_when_it_refuses_holds_no_personal_data() -> None:
    suite = Suite()
    vendor = '{"error":{"message":"unknown user bob@example.com"}}'
    suite.model.error = InvalidArgument("bob@example.com", metadata={"vendor_body": vendor})
    with pytest.raises(InvalidArgument) as caught:
        await suite.pipeline.run(suite.call())
    assert "bob" not in caught.value.message
    assert caught.value.metadata["vendor_body"] == vendor.replace("bob@example.com", "[EMAIL_1]")


async def test_log_probabilities_do_not_spell_a_redacted_answer() -> None:
    suite = Suite()
    suite.model.answer = (
        b'{"choices":[{"message":{"content":"bob@example.com"},'
        b'"logprobs":{"content":[{"token":"bob"},{"token":"@example.com"}]}}]}'
    )
    response = await suite.pipeline.run(suite.call())
    assert isinstance(response, WholeResponse)
    assert b'"bob"' not in response.body


async def test_much_personal_data_does_not_hold_up_other_callers() -> None:
    suite = Suite()
    emails = b" ".join(b"user%d@example.com" % number for number in range(20_000))
    body = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % emails
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await asyncio.sleep(0)
            beats += 1

    heart = asyncio.create_task(beat())
    await suite.pipeline.run(suite.call(body))
    heart.cancel()
    assert beats > 50
    assert b"[EMAIL_20000]" in suite.model.calls[0].body
