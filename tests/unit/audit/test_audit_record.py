"""Records as canonical JSON, against an independent writer of RFC 8785."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit import record as schema
from services.audit.record import (
    Commitment,
    Principal,
    RateLimit,
    Record,
    RecordId,
    Redaction,
    Usage,
    decode,
    encode,
    event_time_text,
    summarise,
)
from services.common.errors import InvalidArgument

STRUCTS = (Commitment, Principal, RateLimit, Record, RecordId, Redaction, Usage)

text = st.text(max_size=20)
numbers = st.integers(0, 2**53 - 1)
ids = st.builds(RecordId, numbers, text, numbers)
records = st.builds(
    Record,
    answered_model=text,
    attempts=numbers,
    attributes=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True), text).map(
        lambda d: dict(sorted(d.items()))
    ),
    commitments=st.lists(st.builds(Commitment, text, st.just("prompt_sent")), max_size=2),
    cost_micros=st.integers(-(2**53) + 1, 2**53 - 1),
    event_time=text,
    id=ids,
    intent_id=st.none() | ids,
    outcome=st.sampled_from([None, "completed", "failed"]),
    principal=st.none()
    | st.builds(Principal, text, st.booleans(), st.lists(text, max_size=2), text, text),
    rate_limit=st.none() | st.builds(RateLimit, text, text, text, text),
    redactions=st.lists(st.builds(Redaction, numbers, st.just("prompt"), text), max_size=2),
    request_id=text,
    stream=st.booleans(),
    type=st.sampled_from(get_args(schema.EventType)),
    usage=st.none() | st.builds(Usage, numbers, numbers, st.booleans(), numbers),
    version=st.just(1),
)


def canonical(value: Any) -> str:
    """Write JSON as RFC 8785 says, by Python's own writer."""
    if isinstance(value, dict):
        ordered = sorted(value.items(), key=lambda item: item[0].encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(k)}:{canonical(v)}" for k, v in ordered) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


@given(records)
def test_an_entry_is_canonical_json(record: Record) -> None:
    entry = encode(record)
    assert entry.decode() == canonical(json.loads(entry))
    assert decode(entry) == record
    assert summarise(entry).id == record.id


@pytest.mark.parametrize("struct", STRUCTS)
def test_the_fields_of_each_object_stand_in_canonical_order(struct: type[msgspec.Struct]) -> None:
    assert list(struct.__struct_fields__) == sorted(struct.__struct_fields__)


def test_every_character_is_escaped_as_the_rfc_says() -> None:
    record = Record(event_time="", id=RecordId(1, "a", 1), type="intent", version=1)
    record.reason = "".join(map(chr, range(0x300))) + "\u2028\u20ac\ufeff\U0001f600\ufffd"
    assert canonical(json.loads(encode(record))) == encode(record).decode()


def test_an_unset_field_is_left_out() -> None:
    record = Record(event_time="t", id=RecordId(1, "a", 2), type="refusal", version=1)
    expected = (
        b'{"event_time":"t","id":{"epoch":1,"instance":"a","sequence":2},'
        b'"type":"refusal","version":1}'
    )
    assert encode(record) == expected


def test_an_entry_over_65535_bytes_is_refused() -> None:
    record = Record(event_time="t", id=RecordId(1, "a", 2), type="refusal", version=1)
    record.reason = "x" * (65_535 - len(encode(record)) - len(',"reason":""'))
    assert len(encode(record)) == 65_535
    record.reason += "x"
    with pytest.raises(InvalidArgument, match="too large"):
        encode(record)


HEAD = '{"event_time":"t","id":{"epoch":1,"instance":"a","sequence":2},'


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "{}",
        HEAD + '"type":"refusal"}',
        HEAD + '"type":"refusal","version":2}',
        HEAD + '"type":"refusal", "version":1}',
        HEAD + '"type":"refusal","unknown":1,"version":1}',
        HEAD + '"type":"other","version":1}',
    ],
)
def test_what_is_not_a_canonical_record_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(entry.encode())


@pytest.mark.parametrize(
    ("seconds", "nanos", "expected"),
    [
        (0, 0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000, 123_456_789, "2023-11-14T22:13:20.123456Z"),
        (-62_135_596_800, 0, "0001-01-01T00:00:00.000000Z"),
        (253_402_300_799, 999_999_999, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_a_time_is_rfc_3339_to_the_microsecond(seconds: int, nanos: int, expected: str) -> None:
    assert event_time_text(seconds, nanos) == expected
