"""The audit log over its stub: events to records, and what the reader forwards."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from services.common.channel import call
from services.common.errors import InvalidArgument
from services.gateway.capture import Capture, SealedText
from services.gateway.events import Event, EventType, RecordId, RecordReference
from services.gateway.principal import Principal
from services.gateway.typed import usage_message
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc, record_pb2
from weaver.common.v1 import identity_pb2

SERVICE = "weaver.audit.v1.AuditService"
IDEMPOTENT = tuple(
    f"/{SERVICE}/{method}"
    for method in (
        "ListRecords",
        "GetRecord",
        "GetReceipt",
        "GetCheckpoint",
        "GetConsistencyProof",
        "ListKeys",
        "GetTile",
        "GetCommitmentKey",
        "GetTexts",
        "LookUpPrincipal",
    )
)
_TYPES = {kind: record_pb2.EventType.Value(f"EVENT_TYPE_{kind.name}") for kind in EventType}
_NANOS = 1_000_000_000


class AuditClient:
    """The port `AuditLog`, and the reading calls.

    `capture` takes the texts of durable records where texts are captured; `pseudonyms` is whether
    records show callers by pseudonyms, once the log has said so.

    Args:
        channel: to the audit service.
        append_timeout_s: how long one attempt to append may take.
        read_timeout_s: how long reading may take.
    """

    def __init__(self, channel: Any, *, append_timeout_s: float, read_timeout_s: float) -> None:  # noqa: ANN401 - gRPC's or local
        """See the class."""
        self._stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._append_timeout_s = append_timeout_s
        self._read_timeout_s = read_timeout_s
        self.capture: Capture | None = None
        self.pseudonyms: bool | None = None

    async def append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
        """Return where the events stand, once all of them are durable.

        Raises:
            WeaverError: as the log says; InvalidArgument for an event that the wire cannot carry.
        """
        try:
            request = pb.AppendRecordsRequest(records=[record(event) for event in events])
        except (ValueError, TypeError, OverflowError) as error:
            # It would fail again each time; the recorder finds out which event it is.
            msg = "A record does not fit its contract."
            raise InvalidArgument(msg) from error
        response = await call(self._stub.AppendRecords, request, timeout_s=self._append_timeout_s)
        self.pseudonyms = response.pseudonyms
        references = [RecordReference(response.origin, index) for index in response.indexes]
        if self.capture is not None:
            for event, reference in zip(events, references, strict=False):
                if event.commitments is not None and event.commitments.texts:
                    self.capture.take(reference, event.commitments)
        return references

    async def store(self, texts: Sequence[SealedText]) -> None:
        """Keep captured texts of one log.

        Raises:
            WeaverError: as `weaver.audit.v1.AuditService/StoreTexts` says.
        """
        request = pb.StoreTextsRequest(origin=texts[0].origin)
        for text in texts:
            request.texts.add(
                index=text.record,
                kind=record_pb2.CommitmentKind.Value(f"COMMITMENT_KIND_{text.kind.upper()}"),
                sealed=text.sealed,
                size=text.size,
                truncated=text.truncated,
            )
        await call(self._stub.StoreTexts, request, timeout_s=self._append_timeout_s)

    async def read(self, method: str, request: Any) -> Any:  # noqa: ANN401 - any message
        """Make one of the reading calls."""
        return await call(getattr(self._stub, method), request, timeout_s=self._read_timeout_s)


def record(event: Event) -> record_pb2.Record:  # noqa: C901 - one line a field
    """Return an event as a record on the wire; fields that are not set stay unset."""
    message = record_pb2.Record(
        type=_TYPES[event.type],
        request_id=event.request_id,
        client_request_id=event.client_request_id,
        source_network=event.source_network,
        surface=event.surface,
        reason=event.reason,
        http_status=event.http_status,
        requested_model=event.requested_model,
        answered_model=event.answered_model,
        provider=event.provider,
        attempts=event.attempts,
        cost_micros=event.cost_micros,
        price_version=event.price_version,
        trace_id=event.trace_id,
        count=event.count,
        stream=event.stream,
    )
    seconds, fraction = divmod(event.time, 1)
    message.event_time.seconds = int(seconds)
    message.event_time.nanos = int(fraction * _NANOS)
    if event.id is not None:
        _set_id(message.id, event.id)
    if event.intent_id is not None:
        _set_id(message.intent_id, event.intent_id)
    if event.principal is not None:
        message.principal.CopyFrom(principal_message(event.principal))
    if event.outcome is not None:
        message.outcome = record_pb2.OutcomeStatus.Value(f"OUTCOME_STATUS_{event.outcome.name}")
    if event.limit is not None:
        message.rate_limit.verdict = event.limit.verdict
        message.rate_limit.rule = event.limit.rule
        message.rate_limit.policy_version = event.limit.policy_version
        message.rate_limit.source = event.limit.source
    if event.usage is not None:
        message.usage.CopyFrom(usage_message(event.usage))
    if event.commitments is not None and event.commitments.values:
        message.commitment_key = event.commitments.key
        for kind, value in event.commitments.values:
            message.commitments.add(
                kind=record_pb2.CommitmentKind.Value(f"COMMITMENT_KIND_{kind}"), hmac_sha256=value
            )
    for direction, kind, count in event.redactions:
        message.redactions.add(
            direction=record_pb2.RedactionDirection.Value(f"REDACTION_DIRECTION_{direction}"),
            type=kind,
            count=count,
        )
    if event.duration_s:
        message.duration.FromNanoseconds(int(event.duration_s * _NANOS))
    if event.upstream_duration_s:
        message.upstream_duration.FromNanoseconds(int(event.upstream_duration_s * _NANOS))
    if event.attributes:
        message.attributes.update(event.attributes)
    return message


@lru_cache(maxsize=4096)
def principal_message(principal: Principal) -> identity_pb2.Principal:
    """Return a principal on the wire; shared, so never to be changed."""
    return identity_pb2.Principal(
        tenant=principal.tenant,
        issuer=principal.issuer,
        subject=principal.subject,
        roles=principal.roles,
    )


def timestamp(seconds: float) -> Timestamp:
    """Return Unix seconds on the wire."""
    whole, fraction = divmod(seconds, 1)
    return Timestamp(seconds=int(whole), nanos=int(fraction * _NANOS))


def _set_id(message: record_pb2.RecordId, record_id: RecordId) -> None:
    message.instance = record_id.instance
    message.epoch = record_id.epoch
    message.sequence = record_id.sequence
