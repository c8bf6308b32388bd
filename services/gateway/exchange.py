"""One admitted request: its intent, its outcome, its reservation.

An exchange is opened once and closed once. Closing hands outcome and settlement over without
waiting, so it can be done from anywhere, a cancellation included; closing again changes nothing.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from services.common.clock import Clock
from services.common.deadlines import deadline_in
from services.common.errors import Unavailable, WeaverError
from services.gateway.admission import Place
from services.gateway.calls import Ask, Call
from services.gateway.events import (
    CaptureRule,
    Commitments,
    Event,
    EventType,
    OutcomeStatus,
    RecordReference,
    Usage,
)
from services.gateway.ports import Admission, Generation, Limiter, ModelInfo
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from services.gateway.redaction import Redactor

OK = 200
CLIENT_CLOSED_REQUEST = 499
LONGEST_NAME = 256
LONGEST_TRIES = 1024
SCANNED_AT_ONCE = 256 * 1024
REDACTED_AT_ONCE = 4 * 1024


Outcome = asyncio.Future[RecordReference] | None
"""Where an outcome will stand; None where there is none."""


class Unrecorded(Protocol):
    """Counts requests that go on although the log does not answer."""

    @property
    def patience_s(self) -> float:
        """How long an answer waits for its outcome."""
        ...

    def went_on(self) -> None:
        """Take note of one."""
        ...


class Exchange:
    """What is known about one admitted request.

    Args:
        call: the request.
        ask: what was read of it.
        principal: who it is made for.
        admission: the limiter's verdict.
        model: the model that is asked; None where none is.
        redactor: the request's; None when personal data passes.
        recorder: takes the events.
        limiter: takes the settlement.
        clock: for times and durations.
        http_status: the HTTP status that an error becomes.
        place: the request's among those in flight; whoever ends the request leaves it.
        capture: which texts are captured; None for none.
        unrecorded: is told of a request that goes on although the log does not answer; None where
            such a request is refused.
    """

    __slots__ = (
        "_capture",
        "_clock",
        "_http_status",
        "_intent",
        "_left",
        "_limiter",
        "_model",
        "_recorder",
        "_unrecorded",
        "_without_record",
        "admission",
        "answer_commitments",
        "ask",
        "call",
        "closed",
        "place",
        "principal",
        "prompt",
        "redactor",
    )

    def __init__(  # noqa: PLR0913 - it is what a request consists of
        self,
        call: Call,
        ask: Ask,
        principal: Principal,
        admission: Admission,
        *,
        model: ModelInfo | None,
        redactor: Redactor | None,
        recorder: Recorder,
        limiter: Limiter,
        clock: Clock,
        http_status: Callable[[WeaverError], int],
        place: Place,
        capture: CaptureRule | None = None,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        """See the class."""
        self.call = call
        self.ask = ask
        self.principal = principal
        self.admission = admission
        self.redactor = redactor
        self.place = place
        self.prompt = ask.body
        self.answer_commitments = Commitments(capture)
        self._capture = capture
        self._unrecorded = unrecorded
        self._without_record = False
        self._recorder = recorder
        self._limiter = limiter
        self._clock = clock
        self._http_status = http_status
        self._intent: Event | None = None
        self._model = model
        self._left = False
        self.closed = False

    @property
    def most_output_tokens(self) -> int:
        """The most tokens that the model can answer with; 0 when not known."""
        return 0 if self._model is None else self._model.max_output_tokens

    async def redact(self) -> None:
        """Take personal data out of the prompt.

        Raises:
            ContentRefused: policy does not let it leave at all.
        """
        if self.redactor is not None:
            self.prompt = await _away(self.redactor, self.redactor.prompt, self.ask.body)
            self.redactor.end_prompt()

    async def redacted(self, answer: bytes) -> bytes:
        """Return a whole answer without personal data."""
        if self.redactor is None:
            return answer
        return await _away(self.redactor, self.redactor.answer, answer)

    def restored(self, answer: bytes) -> bytes:
        """Return an answer, or events of one, with the caller's own values in it again."""
        return answer if self.redactor is None else self.redactor.restore(answer)

    def release(self) -> None:
        """Give the reservation back: nothing was done, and no intent was numbered."""
        if not self.closed:
            self.closed = True
            self._limiter.settle(self.principal, self.admission, None, 0)

    async def open(self, *, strict: bool = False) -> None:
        """Record the intent and wait until it is durable.

        Args:
            strict: whether the request is refused without a record, whatever the policy.

        Raises:
            Unavailable: the log does not answer; `opened` says whether an intent was numbered.
        """
        event = self._event(EventType.INTENT)
        commitments = event.commitments = Commitments(self._capture)
        commitments.add("PROMPT_RECEIVED", self.call.body)
        commitments.add("PROMPT_SENT", self.prompt)
        event.limit = self.admission.decision
        event.redactions = self._redactions("PROMPT")
        event.duration_s = self._clock.monotonic() - self.call.arrived
        try:
            future = self._recorder.submit(event)
            self._intent = event
            await future
        except Unavailable:
            if strict or self._unrecorded is None:
                raise
            self._go_on(self._unrecorded)

    def note_read(self, what: Mapping[str, str]) -> None:
        """Record what was read; it is durable once the outcome is, which follows it."""
        self._recorder.submit(self._noted(EventType.AUDIT_READ, what), must=True)

    async def note_order(self, what: Mapping[str, str]) -> None:
        """Record what is about to be changed, and wait until that is durable.

        Raises:
            Unavailable: the log does not answer.
        """
        await self._recorder.submit(self._noted(EventType.ADMINISTRATION, what))

    def _noted(self, kind: EventType, what: Mapping[str, str]) -> Event:
        event = self._event(kind)
        event.intent_id = None if self._intent is None else self._intent.id
        event.attributes = dict(what)
        return event

    def leave(self) -> None:
        """Take note that the prompt is on its way to a provider."""
        self._left = True

    @property
    def opened(self) -> bool:
        """Whether an intent was numbered, so that an outcome is owed; or policy needs none."""
        return self._intent is not None or self._without_record

    def complete(self, generation: Generation) -> Outcome:
        """Close with a whole answer; the future holds where the outcome stands."""
        return self._close(OutcomeStatus.COMPLETED, generation, "", OK)

    def fail(self, error: WeaverError) -> None:
        """Close without an answer."""
        if not self.closed:
            status = self._http_status(error)
            self._close(OutcomeStatus.FAILED, None, error.reason, status, error.metadata)

    def interrupt(self, generation: Generation | None, reason: str) -> Outcome:
        """Close with an answer that broke off on the provider's side."""
        return self._close(OutcomeStatus.INTERRUPTED, generation, reason, OK)

    def cancel(self, output_tokens: int | None = None) -> None:
        """Close because the client went away, charging what may have been used.

        Args:
            output_tokens: the tokens that have arrived; None when they are not known, which
                charges the bound, so that leaving early is no way around a budget.
        """
        if not self.closed:
            generation = self.spent(output_tokens)
            self._close(OutcomeStatus.CANCELLED, generation, "CANCELLED", CLIENT_CLOSED_REQUEST)

    def spent(self, output_tokens: int | None) -> Generation | None:
        """Return what an answer may have used whose end is not known; None if nothing left.

        Args:
            output_tokens: the tokens that have arrived; None takes the bound.
        """
        if not self._left or self._model is None:
            return None
        output = self.ask.output_tokens
        if output_tokens is not None:
            # Some events carry no token: an estimate never goes beyond what was reserved.
            output = min(output, output_tokens)
        usage = Usage(self.ask.input_tokens, output, estimated=True)
        cost_micros = self._model.cost_micros(usage.input_tokens, usage.output_tokens)
        return Generation(usage=usage, cost_micros=cost_micros)

    async def durable(self, outcome: Outcome, timeout_s: float) -> RecordReference | None:
        """Wait until the outcome is durable; None where the answer goes on without.

        Raises:
            Unavailable: it was not in time; the record is still on its way.
        """
        if outcome is None:
            return None
        if self._unrecorded is not None:
            timeout_s = 0.001 if self._without_record else self._unrecorded.patience_s
        try:
            with deadline_in(timeout_s):
                return await outcome
        except TimeoutError:
            if self._unrecorded is not None:
                self._go_on(self._unrecorded)
                return None
            msg = "The audit log did not confirm the outcome in time, so the answer is withheld."
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0) from None

    def _close(
        self,
        status: OutcomeStatus,
        generation: Generation | None,
        reason: str,
        http_status: int,
        facts: Mapping[str, str] | None = None,
    ) -> Outcome:
        self.closed = True
        if self._intent is None and self._without_record:
            usage, cost_micros = None, 0
            if generation is not None:
                usage, cost_micros = generation.usage, generation.cost_micros
            self._limiter.settle(self.principal, self.admission, usage, cost_micros)
            return None
        event = self._event(EventType.OUTCOME)
        event.intent_id = None if self._intent is None else self._intent.id
        event.outcome = status
        event.reason = reason
        event.http_status = http_status
        event.commitments = self.answer_commitments
        event.redactions = self._redactions("ANSWER")
        event.duration_s = self._clock.monotonic() - self.call.arrived
        usage, cost_micros = None, 0
        if generation is not None:
            usage, cost_micros = generation.usage, generation.cost_micros
            event.answered_model = generation.model[:LONGEST_NAME]
            event.provider = generation.provider
            event.attempts = generation.attempts
            event.usage = usage
            event.cost_micros = cost_micros
            event.price_version = generation.price_version
            event.upstream_duration_s = generation.upstream_duration_s
            if generation.tries:
                event.attributes = {"tries": generation.tries[:LONGEST_TRIES]}
            if generation.cache:
                event.attributes = {**event.attributes, "cache": generation.cache}
            if generation.cache_of:
                event.attributes = {**event.attributes, "cache_of": generation.cache_of}
            bound = self.ask.input_tokens + self.ask.output_tokens
            if usage.input_tokens + usage.output_tokens > bound:
                beyond = usage.input_tokens + usage.output_tokens - bound
                event.attributes = {**event.attributes, "tokens_beyond_bound": str(beyond)}
            if cost_micros and cost_micros > (most := self.ask.cost_micros(self._model)):
                beyond = cost_micros - most
                event.attributes = {**event.attributes, "cost_micros_beyond_bound": str(beyond)}
        elif facts and "tries" in facts:
            event.provider = facts["provider"]
            event.attempts = int(facts["attempts"])
            event.attributes = {"tries": facts["tries"]}
        self._limiter.settle(self.principal, self.admission, usage, cost_micros)
        return self._recorder.submit(event, must=True)

    def _go_on(self, unrecorded: Unrecorded) -> None:
        """Take note, once, that this request is not refused although the log does not answer."""
        if not self._without_record:
            self._without_record = True
            unrecorded.went_on()

    def _event(self, kind: EventType) -> Event:
        call = self.call
        return Event(
            kind,
            self._clock.time(),
            request_id=call.request_id,
            client_request_id=call.header("x-client-request-id")[:128],
            principal=self.principal,
            source_network=call.source_network,
            surface=call.surface.name,
            requested_model=self.ask.model,
            trace_id=call.trace_id,
            stream=self.ask.stream,
        )

    def _redactions(self, direction: str) -> tuple[tuple[str, str, int], ...]:
        """Return what was redacted since the last time this was asked."""
        if self.redactor is None or not self.redactor.counts:
            return ()
        counts, self.redactor.counts = self.redactor.counts, {}
        return tuple((direction, kind, count) for kind, count in sorted(counts.items()))


async def _away(redactor: Redactor, work: Callable[[bytes], bytes], body: bytes) -> bytes:
    """Work on a body, off the event loop where it could take longer than a moment."""
    size = len(body)
    if size <= REDACTED_AT_ONCE or (
        size <= SCANNED_AT_ONCE and not redactor.detector.suspicious(body)
    ):
        return work(body)
    try:
        return await asyncio.to_thread(work, body)
    except asyncio.CancelledError:
        redactor.stop()
        raise
