"""What becomes of calls that the log cannot record, and of texts that are captured."""

import asyncio
from collections.abc import Sequence

import pytest

from services.common.errors import NotFound, Unavailable
from services.gateway.calls import WholeResponse
from services.gateway.capture import KINDS, Capture, SealedText
from services.gateway.events import (
    CaptureRule,
    Commitments,
    EventType,
    OutcomeStatus,
    RecordReference,
)
from services.gateway.principal import Principal
from tests.fakes.gateway import STREAM_BODY, Suite


class Counter:
    """Counts the requests that went on."""

    patience_s = 0.01

    def __init__(self) -> None:
        self.count = 0

    def went_on(self) -> None:
        self.count += 1


async def stall(suite: Suite) -> None:
    """Have the log refuse, and the recorder notice."""
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")
    while suite.recorder.stall is None:
        await asyncio.sleep(0.001)


def heal(suite: Suite) -> None:
    suite.log.refuses = lambda _: None


async def read(response: object) -> bytes:
    assert not isinstance(response, WholeResponse)
    pieces = [piece async for piece in response]  # type: ignore[attr-defined]
    pieces.append(await response.last())  # type: ignore[attr-defined]
    await response.aclose()  # type: ignore[attr-defined]
    return b"".join(pieces)


async def test_deny_refuses_what_the_log_cannot_record() -> None:
    """The default: no record, no call."""
    suite = Suite()
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await suite.pipeline.run(suite.call())
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        assert caught.value.retry_after_s is not None
    assert suite.model.calls == []
    heal(suite)
    await suite.settle()


@pytest.mark.parametrize("body", [None, STREAM_BODY])
async def test_allow_lets_calls_go_on_and_counts_each_once(body: bytes | None) -> None:
    counter = Counter()
    suite = Suite(unrecorded=counter, redact=False)
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")
    for _ in range(3):
        response = await suite.pipeline.run(suite.call(*([body] if body else [])))
        if body is not None:
            assert b"[DONE]" in await read(response)
        assert response.record is None
    assert len(suite.model.calls) == counter.count == 3
    assert len(suite.limiter.settled) == 3
    heal(suite)
    await suite.settle()
    # The first was numbered before the outage was noticed: it is delivered late, and whole.
    assert [event.type for event in suite.log.events] == [EventType.INTENT, EventType.OUTCOME]
    assert [event.id.sequence for event in suite.log.events if event.id] == [1, 2]


async def test_numbers_have_no_hole_and_no_repeat_after_an_outage() -> None:
    suite = Suite(unrecorded=Counter())
    await suite.pipeline.run(suite.call())
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")
    for _ in range(5):
        await suite.pipeline.run(suite.call())
    heal(suite)
    while suite.recorder.stall is not None:
        await asyncio.sleep(0.01)
    response = await suite.pipeline.run(suite.call())
    assert response.record is not None
    await suite.settle()
    numbers = [event.id.sequence for event in suite.log.events if event.id]
    assert numbers == list(range(1, len(numbers) + 1))
    intents = {event.id for event in suite.log.events if event.type is EventType.INTENT}
    outcomes = [event for event in suite.log.events if event.type is EventType.OUTCOME]
    assert {event.intent_id for event in outcomes} == intents
    assert len(outcomes) == len(intents)


async def test_an_outage_between_intent_and_outcome_does_not_withhold_the_answer() -> None:
    counter = Counter()
    suite = Suite(unrecorded=counter)
    suite.model.open.clear()
    request = asyncio.create_task(suite.pipeline.run(suite.call()))
    await suite.model.asked.wait()
    suite.log.open.clear()
    suite.model.open.set()
    response = await request
    assert isinstance(response, WholeResponse)
    assert (response.record, counter.count) == (None, 1)
    suite.log.open.set()
    await suite.settle()
    assert suite.log.events[-1].outcome is OutcomeStatus.COMPLETED


async def test_an_unrecorded_call_that_fails_is_settled_and_not_recorded() -> None:
    suite = Suite(unrecorded=Counter())
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")
    await suite.pipeline.run(suite.call())
    await stall(suite)
    suite.model.error = NotFound("no such model")
    with pytest.raises(NotFound):
        await suite.pipeline.run(suite.call())
    assert len(suite.limiter.settled) == 2
    heal(suite)
    await suite.settle()
    assert len(suite.log.events) == 2


async def test_audit_data_is_never_read_unrecorded() -> None:
    suite = Suite(unrecorded=Counter())
    suite.log.refuses = lambda _: Unavailable("gone", reason="AUDIT_UNAVAILABLE")

    async def reading(_: Principal) -> str:
        return "a secret"

    with pytest.raises(Unavailable):
        await suite.pipeline.read(suite.call(), reading)
    heal(suite)
    await suite.settle()


async def test_what_was_read_is_a_record_between_intent_and_outcome() -> None:
    suite = Suite()

    async def reading(_: Principal) -> str:
        return "17"

    await suite.pipeline.read(suite.call(), reading, lambda index: {"index": index})
    intent, what, outcome = suite.log.events
    assert (what.type, what.attributes) == (EventType.AUDIT_READ, {"index": "17"})
    assert what.intent_id == outcome.intent_id == intent.id


def texts(suite: Suite) -> dict[str, tuple[bytes, int]]:
    return {
        kind: (text, size)
        for event in suite.log.events
        if event.commitments is not None
        for kind, text, size in event.commitments.texts
    }


async def test_nothing_is_captured_unless_asked() -> None:
    suite = Suite()
    await suite.pipeline.run(suite.call())
    await suite.settle()
    assert texts(suite) == {}


@pytest.mark.parametrize("mode", ["redacted", "full"])
@pytest.mark.parametrize("body", [None, STREAM_BODY])
async def test_what_is_captured_is_what_the_commitments_are_to(
    mode: str, body: bytes | None
) -> None:
    suite = Suite(capture=CaptureRule(KINDS[mode], 10_000))
    response = await suite.pipeline.run(suite.call(*([body] if body else [])))
    sent = response.body if isinstance(response, WholeResponse) else await read(response)
    await suite.settle()
    captured = texts(suite)
    assert set(captured) == KINDS[mode]
    assert captured["ANSWER_SENT"] == (sent, len(sent))
    for event in suite.log.events:
        assert event.commitments is not None
        again = Commitments()
        again.key = event.commitments.key
        for kind, text, _ in event.commitments.texts:
            again.add(kind, text)
            assert again.values[-1] in event.commitments.values


async def test_a_long_text_is_cut_and_its_size_kept() -> None:
    commitments = Commitments(CaptureRule(KINDS["full"], 10))
    commitments.add("PROMPT_SENT", b"x" * 25)
    running = commitments.running("ANSWER_SENT")
    for _ in range(5):
        running.update(b"abcd")
    commitments.end("ANSWER_SENT", running)
    assert commitments.texts == [
        ("PROMPT_SENT", b"x" * 10, 25),
        ("ANSWER_SENT", b"abcdabcdab", 20),
    ]


class Hearer:
    """Counts what became of texts."""

    def __init__(self) -> None:
        self.kept = self.lost = 0

    def captured(self, texts: int) -> None:
        self.kept += texts

    def dropped(self, texts: int) -> None:
        self.lost += texts


def captured(count: int, size: int = 10) -> Commitments:
    commitments = Commitments(CaptureRule(KINDS["full"], 10_000_000))
    for _ in range(count):
        commitments.add("PROMPT_SENT", b"x" * size)
    return commitments


async def test_texts_wait_for_the_side_store_and_are_sent_again() -> None:
    stored: list[SealedText] = []
    failures = [Unavailable("gone"), Unavailable("gone")]

    async def store(batch: Sequence[SealedText]) -> None:
        if failures:
            raise failures.pop()
        stored.extend(batch)

    hearer = Hearer()
    capture = Capture(store, hearer)
    capture.take(RecordReference("log", 7), captured(3))
    capture.take(RecordReference("another log", 8), captured(1))
    await capture.close(5.0)
    assert [text.record for text in stored] == [7, 7, 7, 8]
    assert (hearer.kept, hearer.lost, capture.waiting_bytes) == (4, 0, 0)


async def test_what_does_not_fit_or_is_refused_is_dropped_and_counted() -> None:
    async def refuse(_: Sequence[SealedText]) -> None:
        raise NotFound("no such record")

    hearer = Hearer()
    capture = Capture(refuse, hearer)
    capture.take(RecordReference("log", 7), captured(70, size=1_000_000))
    assert hearer.lost == 3
    await capture.close(10.0)
    assert (hearer.kept, hearer.lost) == (0, 70)


async def test_a_store_that_hangs_does_not_hold_up_the_end() -> None:
    async def hang(_: Sequence[SealedText]) -> None:
        await asyncio.Event().wait()

    hearer = Hearer()
    capture = Capture(hang, hearer)
    capture.take(RecordReference("log", 7), captured(2))
    await capture.close(0.01)
    assert hearer.lost == 2
