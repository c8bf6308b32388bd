"""Translates between protobuf messages and the domain: records, filters, times.

It checks what a message's shape allows and the schema does not; it decides nothing else.
"""

import re
from typing import Final, Literal, Protocol, get_args

from google.protobuf import duration_pb2, timestamp_pb2

from services.audit.index import Filter
from services.audit.record import (
    MAX_INTEGER,
    SCHEMA_VERSION,
    Commitment,
    CommitmentKind,
    EventType,
    Outcome,
    Principal,
    RateLimit,
    Record,
    RecordId,
    Redaction,
    Usage,
    event_time_text,
)
from services.common.errors import InvalidArgument
from weaver.audit.v1 import audit_service_pb2, record_pb2

_EVENT_TYPES: Final[dict[int, EventType]] = {
    record_pb2.EventType.Value(f"EVENT_TYPE_{name.upper()}"): name for name in get_args(EventType)
}
_OUTCOMES: Final[dict[int, Outcome]] = {
    record_pb2.OutcomeStatus.Value(f"OUTCOME_STATUS_{name.upper()}"): name
    for name in get_args(Outcome)
}
_COMMITMENTS: Final[dict[int, CommitmentKind]] = {
    record_pb2.CommitmentKind.Value(f"COMMITMENT_KIND_{name.upper()}"): name
    for name in get_args(CommitmentKind)
}
_DIRECTIONS: Final[dict[int, Literal["answer", "prompt"]]] = {1: "prompt", 2: "answer"}
_DECISIONS: Final[dict[EventType, str]] = {
    "intent": "admitted",
    "audit_read": "admitted",
    "administration": "admitted",
    "refusal": "refused",
}
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_HASH_SIZE = 32
_MIN_SECONDS = -62_135_596_800
_MAX_SECONDS = 253_402_300_799
_NANOS = 1_000_000_000


class Caller(Protocol):
    """A caller whose records show a pseudonym."""

    @property
    def pseudonym(self) -> str:
        """What stands for the subject."""
        ...

    def hide(self, text: str) -> str:
        """Return what stands for a text that the caller chose."""
        ...


def record_of(message: record_pb2.Record, caller: Caller | None = None) -> Record:
    """Return the record of a message.

    Args:
        message: the message.
        caller: who it is about, where records show pseudonyms.

    Raises:
        InvalidArgument: a field is missing or bad; the violation's field is relative to the record.
    """
    event_type = _EVENT_TYPES.get(message.type)
    if event_type is None:
        raise InvalidArgument.of_field("type", "must be one of the event types.")
    if not message.HasField("event_time"):
        raise InvalidArgument.of_field("event_time", "is missing.")
    trace_id = message.trace_id
    if trace_id and _TRACE_ID.fullmatch(trace_id) is None:
        raise InvalidArgument.of_field("trace_id", "must be 32 hexadecimal digits.")
    return Record(
        answered_model=message.answered_model,
        attempts=message.attempts,
        attributes=_attributes(message) if message.attributes else {},
        client_request_id=(
            message.client_request_id if caller is None else caller.hide(message.client_request_id)
        ),
        commitments=[_commitment(item) for item in message.commitments],
        cost_micros=_integer(message.cost_micros, "cost_micros"),
        count=message.count,
        decision=_DECISIONS.get(event_type, ""),
        duration_us=_micros(message.duration, "duration") if message.HasField("duration") else 0,
        event_time=time_text(message.event_time, "event_time"),
        http_status=message.http_status,
        id=_record_id(message.id, "id"),
        intent_id=(
            _record_id(message.intent_id, "intent_id") if message.HasField("intent_id") else None
        ),
        outcome=_outcome(message.outcome) if message.outcome else None,
        price_version=message.price_version,
        principal=_principal(message, caller) if message.HasField("principal") else None,
        provider=message.provider,
        rate_limit=_rate_limit(message) if message.HasField("rate_limit") else None,
        reason=message.reason,
        redactions=[_redaction(item) for item in message.redactions],
        request_id=message.request_id,
        requested_model=message.requested_model,
        source_network=message.source_network,
        stream=message.stream,
        surface=message.surface,
        trace_id=trace_id,
        type=event_type,
        upstream_duration_us=(
            _micros(message.upstream_duration, "upstream_duration")
            if message.HasField("upstream_duration")
            else 0
        ),
        usage=_usage(message) if message.HasField("usage") else None,
        version=SCHEMA_VERSION,
    )


def commitment_key_of(message: record_pb2.Record) -> bytes | None:
    """Return what goes into the side store.

    Raises:
        InvalidArgument: it has the wrong length.
    """
    key = message.commitment_key
    if key and len(key) != _HASH_SIZE:
        raise InvalidArgument.of_field("commitment_key", "must have 32 bytes.")
    return key or None


def filter_of(message: audit_service_pb2.RecordFilter) -> Filter:
    """Return the filter of a listing.

    Raises:
        InvalidArgument: a type or time is bad.
    """
    types: list[str] = []
    for number in message.types:
        event_type = _EVENT_TYPES.get(number)
        if event_type is None:
            raise InvalidArgument.of_field("filter.types", "must be event types.")
        types.append(event_type)
    return Filter(
        tenant=message.tenant,
        issuer=message.issuer,
        subject=message.subject,
        request_id=message.request_id,
        types=tuple(types),
        start_time=(
            time_text(message.start_time, "filter.start_time")
            if message.HasField("start_time")
            else ""
        ),
        end_time=(
            time_text(message.end_time, "filter.end_time") if message.HasField("end_time") else ""
        ),
    )


def time_text(message: timestamp_pb2.Timestamp, field: str) -> str:
    """Return a time as records write it: RFC 3339 in UTC, to the microsecond.

    Raises:
        InvalidArgument: it is outside the years 1 to 9999.
    """
    seconds, nanos = message.seconds, message.nanos
    if not (_MIN_SECONDS <= seconds <= _MAX_SECONDS and 0 <= nanos < _NANOS):
        raise InvalidArgument.of_field(field, "must be a time between the years 1 and 9999.")
    return event_time_text(seconds, nanos)


def _record_id(message: record_pb2.RecordId, field: str) -> RecordId:
    if _INSTANCE.fullmatch(message.instance) is None:
        raise InvalidArgument.of_field(
            f"{field}.instance", "must be 1 to 128 letters, digits, dots, dashes or underscores."
        )
    epoch, sequence = message.epoch, message.sequence
    if not 0 < epoch <= MAX_INTEGER or not 0 < sequence <= MAX_INTEGER:
        raise InvalidArgument.of_field(field, "needs an epoch and a sequence from 1 to 2^53-1.")
    return RecordId(epoch, message.instance, sequence)


def _principal(message: record_pb2.Record, caller: Caller | None) -> Principal:
    principal = message.principal
    roles = list(principal.roles)
    if caller is None:
        return Principal(principal.issuer, False, roles, principal.subject, principal.tenant)  # noqa: FBT003 - in the order of the fields, for speed
    return Principal(principal.issuer, True, roles, caller.pseudonym, principal.tenant)  # noqa: FBT003


def _rate_limit(message: record_pb2.Record) -> RateLimit:
    decision = message.rate_limit
    return RateLimit(decision.policy_version, decision.rule, decision.source, decision.verdict)


def _usage(message: record_pb2.Record) -> Usage:
    usage = message.usage
    return Usage(
        _integer(usage.cache_write_input_tokens, "usage.cache_write_input_tokens"),
        _integer(usage.cached_input_tokens, "usage.cached_input_tokens"),
        usage.estimated,
        _integer(usage.input_tokens, "usage.input_tokens"),
        _integer(usage.output_tokens, "usage.output_tokens"),
        _integer(usage.reasoning_tokens, "usage.reasoning_tokens"),
    )


def _commitment(message: record_pb2.Commitment) -> Commitment:
    kind = _COMMITMENTS.get(message.kind)
    if kind is None:
        raise InvalidArgument.of_field("commitments.kind", "must be one of the kinds.")
    if len(message.hmac_sha256) != _HASH_SIZE:
        raise InvalidArgument.of_field("commitments.hmac_sha256", "must have 32 bytes.")
    return Commitment(message.hmac_sha256.hex(), kind)


def _redaction(message: record_pb2.Redaction) -> Redaction:
    direction = _DIRECTIONS.get(message.direction)
    if direction is None:
        raise InvalidArgument.of_field("redactions.direction", "must be prompt or answer.")
    return Redaction(message.count, direction, message.type)


def _outcome(number: int) -> Outcome:
    outcome = _OUTCOMES.get(number)
    if outcome is None:
        raise InvalidArgument.of_field("outcome", "must be one of the outcomes.")
    return outcome


def _attributes(message: record_pb2.Record) -> dict[str, str]:
    attributes = dict(sorted(message.attributes.items()))
    for name in attributes:
        if _ATTRIBUTE.fullmatch(name) is None:
            raise InvalidArgument.of_field("attributes", "must have keys in snake_case.")
    return attributes


def _micros(message: duration_pb2.Duration, field: str) -> int:
    return _integer(message.seconds * 1_000_000 + message.nanos // 1000, field)


def _integer(value: int, field: str) -> int:
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidArgument.of_field(field, "must be within 2^53.")
    return value
