"""What a caller may read of the audit log, in the gateway's own words.

A caller without the `auditor` role sees their own records; another's does not exist for them. The
log is asked as their owner: only the audit service knows under which pseudonym somebody's records
stand.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from services.common.errors import InvalidArgument

MAX_PAGE_SIZE = 1000
TYPES: Final = frozenset(
    (
        "intent",
        "outcome",
        "refusal",
        "key_rotation",
        "configuration_changed",
        "service_started",
        "service_stopped",
        "degraded_entered",
        "degraded_left",
        "audit_read",
        "administration",
    )
)


class Text(msgspec.Struct, frozen=True):
    """A text that was captured for a record."""

    kind: str
    data: bytes
    size: int
    truncated: bool


class _Who(msgspec.Struct):
    tenant: str = ""


class _Entry(msgspec.Struct):
    principal: _Who | None = None


def event_type(name: str) -> str:
    """Check the name of an event type.

    Raises:
        InvalidArgument: it is none.
    """
    if name not in TYPES:
        raise InvalidArgument.of_field("type", f"must be one of {', '.join(sorted(TYPES))}")
    return name


def instant(field: str, text: str) -> float | None:
    """Return an RFC 3339 time in Unix seconds; None for an empty one.

    Raises:
        InvalidArgument: it is not one.
    """
    if not text:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise InvalidArgument.of_field(
            field, "must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z"
        )
    return parsed.timestamp()


def page_size(asked: int) -> int:
    """Return the size of a page.

    Raises:
        InvalidArgument: it is out of range.
    """
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise InvalidArgument.of_field("page_size", f"must be from 0 to {MAX_PAGE_SIZE}")
    return asked


def record_json(index: int, entry: bytes) -> Mapping[str, object]:
    """Return a record with its index; the entry stays byte for byte."""
    return {"index": index, "record": msgspec.Raw(entry)}


def tenant_of(entry: bytes) -> str:
    """Return whose tenant a record is about; "" for one that is about nobody."""
    principal = msgspec.json.decode(entry, type=_Entry).principal
    return "" if principal is None else principal.tenant


def text_json(text: Text) -> Mapping[str, object]:
    """Return a captured text; one that is not UTF-8 as `base64`."""
    described = {"kind": text.kind, "size": text.size, "truncated": text.truncated}
    try:
        return {**described, "text": text.data.decode()}
    except UnicodeDecodeError as error:
        # A text that was cut may end with the beginning of a character.
        if text.truncated and error.start >= len(text.data) - 3:
            return {**described, "text": text.data[: error.start].decode()}
        return {**described, "base64": base64.b64encode(text.data).decode()}


def what_was_listed(filters: Mapping[str, str], indexes: Sequence[int]) -> dict[str, str]:
    """Return what a record of a listing says of it."""
    said = {f"filter_{name}": value for name, value in filters.items() if value}
    said |= {"read": "records", "count": str(len(indexes))}
    if indexes:
        said |= {"first_index": str(min(indexes)), "last_index": str(max(indexes))}
    return said
