"""What a caller may read of the audit log, in the gateway's own words.

A caller without the `auditor` role sees their own records; another's does not exist for them. The
log is asked with the caller's identity in the filter, and what comes back is checked again.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from services.common.errors import InvalidArgument, NotFound
from services.gateway.principal import Principal

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


class _Principal(msgspec.Struct):
    tenant: str = ""
    issuer: str = ""
    subject: str = ""


class _Entry(msgspec.Struct):
    principal: _Principal | None = None


_ENTRY: Final = msgspec.json.Decoder(_Entry)


def own(entry: bytes, principal: Principal) -> bool:
    """Return whether a record is about this caller."""
    found = _ENTRY.decode(entry).principal
    return found is not None and (found.tenant, found.issuer, found.subject) == (
        principal.tenant,
        principal.issuer,
        principal.subject,
    )


def no_such_record(index: int) -> NotFound:
    """Return the error for a record that does not exist, or not for this caller."""
    return NotFound(f"There is no record {index}, or it is not yours.")


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
