"""Who may append what, and who may read.

A record's id belongs to the peer that appends it, so no service can speak for another. The gateway
sees requests and may append every type; the other services only what happens to themselves.
"""

from services.audit.record import EventType, RecordId
from services.common.errors import PermissionDenied

_OWN_EVENTS: frozenset[EventType] = frozenset(
    {
        "service_started",
        "service_stopped",
        "configuration_changed",
        "degraded_entered",
        "degraded_left",
    }
)
_EVERY_TYPE = "gateway"
_READERS = frozenset({"gateway"})


def check_append(peer: str, record_id: RecordId, event_type: EventType, field: str) -> None:
    """Refuse a record that is not the peer's to append.

    Args:
        peer: the service's name, from its certificate.
        record_id: the record's id.
        event_type: what the record is about.
        field: where the record stands in the request, for the message.

    Raises:
        PermissionDenied: the id's instance or the type is not the peer's.
    """
    if not peer or not (record_id.instance == peer or record_id.instance.startswith(f"{peer}-")):
        msg = f"{field}: the instance {record_id.instance!r} does not belong to the peer {peer!r}."
        raise PermissionDenied(msg)
    if peer != _EVERY_TYPE and event_type not in _OWN_EVENTS:
        msg = f"{field}: the peer {peer!r} may not append records of the type {event_type!r}."
        raise PermissionDenied(msg)


def check_read(peer: str) -> None:
    """Refuse a peer that has no business reading records.

    Raises:
        PermissionDenied: the peer is not a reader.
    """
    if peer not in _READERS:
        msg = f"The peer {peer!r} may not read the audit log."
        raise PermissionDenied(msg)
