"""Records as the log holds them: version 1 of the schema, as canonical JSON.

The schema is described field by field in `docs/design/records.md`. What is written here is
canonical JSON of RFC 8785: the fields of each object stand in the order of their names, numbers are
integers within 2^53, and the encoder escapes exactly what that RFC escapes. A field that is unset
is left out, and a number that is left out is 0.
"""

from functools import lru_cache
from time import gmtime, strftime
from typing import Literal

import msgspec

from services.audit.tiles import MAX_ENTRY_SIZE
from services.common.errors import InvalidArgument

SCHEMA_VERSION = 1
MAX_INTEGER = 2**53 - 1

EventType = Literal[
    "administration",
    "audit_read",
    "configuration_changed",
    "degraded_entered",
    "degraded_left",
    "intent",
    "key_rotation",
    "outcome",
    "refusal",
    "service_started",
    "service_stopped",
]
CommitmentKind = Literal["answer_received", "answer_sent", "prompt_received", "prompt_sent"]
Outcome = Literal["cancelled", "completed", "failed", "interrupted"]


class RecordId(msgspec.Struct, frozen=True, gc=False):
    """Who made a record, and the how-manieth it is since their boot."""

    epoch: int
    instance: str
    sequence: int

    def __str__(self) -> str:
        """Return the id as people read it."""
        return f"{self.instance}/{self.epoch}/{self.sequence}"


class Principal(msgspec.Struct, omit_defaults=True, gc=False):
    """Who a request was made for; `pseudonym` says that the subject is one."""

    issuer: str = ""
    pseudonym: bool = False
    roles: list[str] = []
    subject: str = ""
    tenant: str = ""


class Commitment(msgspec.Struct, gc=False):
    """What binds the record to a text: an HMAC-SHA-256 in hexadecimal."""

    hmac_sha256: str
    kind: CommitmentKind


class Redaction(msgspec.Struct, gc=False):
    """How often a type of data was taken out of a text."""

    count: int
    direction: Literal["answer", "prompt"]
    type: str


class RateLimit(msgspec.Struct, omit_defaults=True, gc=False):
    """What the limiter decided."""

    policy_version: str = ""
    rule: str = ""
    source: str = ""
    verdict: str = ""


class Usage(msgspec.Struct, omit_defaults=True, gc=False):
    """What a model call used."""

    cache_write_input_tokens: int = 0
    cached_input_tokens: int = 0
    estimated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Record(
    msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, gc=False, kw_only=True
):
    """One record. The fields stand in the order in which they are written."""

    answered_model: str = ""
    attempts: int = 0
    attributes: dict[str, str] = {}
    client_request_id: str = ""
    commitments: list[Commitment] = []
    cost_micros: int = 0
    count: int = 0
    decision: str = ""
    duration_us: int = 0
    event_time: str
    http_status: int = 0
    id: RecordId
    intent_id: RecordId | None = None
    outcome: Outcome | None = None
    price_version: str = ""
    principal: Principal | None = None
    provider: str = ""
    rate_limit: RateLimit | None = None
    reason: str = ""
    redactions: list[Redaction] = []
    request_id: str = ""
    requested_model: str = ""
    source_network: str = ""
    stream: bool = False
    surface: str = ""
    trace_id: str = ""
    type: EventType
    upstream_duration_us: int = 0
    usage: Usage | None = None
    version: int


class Summary(msgspec.Struct, gc=False):
    """What the index and the verifier read of an entry; the rest is skipped."""

    event_time: str
    id: RecordId
    type: str
    intent_id: RecordId | None = None
    principal: Principal | None = None
    request_id: str = ""


TOO_DEEP = "the JSON is nested too deep"
"""What is said of JSON that only somebody who attacks the reader writes."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)
_summary_decoder = msgspec.json.Decoder(Summary)


def encode(record: Record) -> bytes:
    """Return the entry of a record: the bytes that are hashed.

    Raises:
        InvalidArgument: the entry is larger than a log entry can be.
    """
    entry = _encoder.encode(record)
    if len(entry) > MAX_ENTRY_SIZE:
        msg = f"A record of {len(entry)} bytes is too large; an entry has at most {MAX_ENTRY_SIZE}."
        raise InvalidArgument(msg)
    return entry


def decode(entry: bytes) -> Record:
    """Return the record of an entry.

    Raises:
        ValueError: the entry is not a record of version 1 in canonical JSON.
    """
    try:
        record = _decoder.decode(entry)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if record.version != SCHEMA_VERSION or _encoder.encode(record) != entry:
        msg = "the entry is not canonical JSON of a version 1 record"
        raise ValueError(msg)
    return record


def summarise(entry: bytes) -> Summary:
    """Return what the index and the verifier need of an entry.

    Raises:
        ValueError: the entry is not a record.
    """
    try:
        return _summary_decoder.decode(entry)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def event_time_text(seconds: int, nanos: int) -> str:
    """Return a Unix time as records write it: RFC 3339 in UTC, cut to the microsecond."""
    return f"{_second_text(seconds)}.{nanos // 1000:06d}Z"


@lru_cache(maxsize=64)
def _second_text(seconds: int) -> str:
    moment = gmtime(seconds)
    return f"{moment.tm_year:04d}{strftime('-%m-%dT%H:%M:%S', moment)}"
