"""What a request's trace shows of its path: the reservation, the records, the model that answered.

These stand in for the recorder and the limiter's client where telemetry is on, so that it costs
nothing where it is off. Spans carry models, figures and the ids of records; never a prompt, an
answer, or who asked.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.trace import Span, Status, StatusCode

from services.common import telemetry
from services.common.telemetry import Scope
from services.common.traced_batching import TracedBatcher
from services.gateway.events import Event, EventType, OutcomeStatus, RecordId, RecordReference
from services.gateway.limit_client import LimitClient
from services.gateway.ports import Admission, AuditLog
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from services.gateway.reservations import Live

_OPERATIONS: Final = {
    "embeddings": "embeddings",
    "messages.count_tokens": "count_tokens",
}
_LONGEST_NAME: Final = 128
_NAMES: Final = {
    EventType.INTENT: "audit intent",
    EventType.OUTCOME: "audit outcome",
    EventType.AUDIT_READ: "audit read",
}


class _TracedLog:
    """Appends below the first request of a batch that is traced.

    Args:
        log: the audit log.
        scopes: where the spans of events are, by their ids.
    """

    def __init__(self, log: AuditLog, scopes: dict[RecordId, Scope]) -> None:
        self._log = log
        self._scopes = scopes

    async def append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
        """Append within the spans of those who wait for it."""
        waiting = [self._scopes.get(event.id) for event in events if event.id is not None]
        telemetry.scope.set(telemetry.together(waiting))
        return await self._log.append(events)


class TracedRecorder(Recorder):
    """Records within a span, and puts what is recorded onto the request's own.

    Args:
        log: the audit log.
        options: as of `Recorder`.
    """

    def __init__(self, log: AuditLog, *options: Any, **named: Any) -> None:  # noqa: ANN401 - those of another class
        """See the class."""
        self._spans: dict[RecordId, Scope] = {}
        super().__init__(_TracedLog(log, self._spans), *options, **named)

    def submit(self, event: Event, *, must: bool = False) -> "asyncio.Future[RecordReference]":
        """Give an event its id and send it; see `Recorder.submit`."""
        active = telemetry.scope.get()
        name = _NAMES.get(event.type)
        if active is None or name is None:
            return super().submit(event, must=must)
        begun = active.start(name, {"weaver.surface": event.surface})
        try:
            future = super().submit(event, must=must)
        except BaseException:
            begun.span.set_status(Status(StatusCode.ERROR))
            begun.span.end()
            raise
        record_id = event.id
        assert record_id is not None  # noqa: S101 - it was just given
        self._spans[record_id] = begun
        kind = event.type.value
        shown = f"{record_id.instance}/{record_id.epoch}/{record_id.sequence}"
        begun.span.set_attribute("weaver.audit.record_id", shown)
        root = begun.root
        if root.is_recording():
            root.set_attribute(f"weaver.audit.{kind}_id", shown)
            if event.type is not EventType.AUDIT_READ:
                root.set_attributes(_about(event))

        def recorded(done: "asyncio.Future[RecordReference]") -> None:
            del self._spans[record_id]
            _place(done, kind, begun.span, root)

        future.add_done_callback(recorded)
        return future


class TracedLimitClient(LimitClient):
    """Reserves within a span; see `LimitClient`."""

    batcher = TracedBatcher

    async def reserve(
        self, principal: Principal, model: str, *, tokens: int, cost_micros: int
    ) -> Admission:
        """Reserve one request with its bound; see `LimitClient.reserve`."""
        active = telemetry.scope.get()
        if active is None:
            return await super().reserve(principal, model, tokens=tokens, cost_micros=cost_micros)
        begun = active.start("reserve", {})
        token = telemetry.scope.set(begun)
        try:
            verdict = await super().reserve(
                principal, model, tokens=tokens, cost_micros=cost_micros
            )
        except BaseException:
            begun.span.set_status(Status(StatusCode.ERROR))
            raise
        else:
            decision = verdict.decision
            begun.span.set_attributes(
                {
                    "weaver.limit.verdict": decision.verdict,
                    "weaver.limit.rule": decision.rule,
                    "weaver.limit.source": decision.source,
                    "weaver.limit.policy_version": decision.policy_version,
                }
            )
            return verdict
        finally:
            telemetry.scope.reset(token)
            begun.span.end()

    def _begin_renewal(self, live: Sequence[Live]) -> None:
        # The timer was set by some request long ago; what it renews is everybody's.
        telemetry.scope.set(None)
        super()._begin_renewal(live)


def _about(event: Event) -> dict[str, str | int]:
    """Return what an event says of its request, by the conventions for generative models."""
    found: dict[str, str | int] = {"weaver.surface": event.surface}
    if event.requested_model:
        found["gen_ai.operation.name"] = _OPERATIONS.get(event.surface, "chat")
        found["gen_ai.request.model"] = event.requested_model[:_LONGEST_NAME]
    if event.type is EventType.INTENT:
        return found
    found["weaver.outcome"] = "" if event.outcome is None else event.outcome.value
    found["http.response.status_code"] = event.http_status
    if event.outcome is not OutcomeStatus.COMPLETED:
        found["error.type"] = event.reason
    if event.provider:
        found["gen_ai.provider.name"] = event.provider
        found["weaver.attempts"] = event.attempts
        found["weaver.upstream_ms"] = round(event.upstream_duration_s * 1000)
    if event.answered_model:
        found["gen_ai.response.model"] = event.answered_model[:_LONGEST_NAME]
    if event.usage is not None:
        found["gen_ai.usage.input_tokens"] = event.usage.input_tokens
        found["gen_ai.usage.output_tokens"] = event.usage.output_tokens
    return found


def _place(done: "asyncio.Future[RecordReference]", kind: str, span: Span, root: Span) -> None:
    """Note where a record stands, on its own span and on its request's."""
    if done.cancelled() or done.exception() is not None:
        span.set_status(Status(StatusCode.ERROR))
    else:
        reference = done.result()
        span.set_attribute("weaver.audit.record", f"{reference.origin} {reference.index}")
        if root.is_recording():
            root.set_attribute(f"weaver.audit.{kind}", f"{reference.origin} {reference.index}")
    span.end()
