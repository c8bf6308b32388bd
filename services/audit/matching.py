"""Whether a record is one that a filter asks for, by the record itself."""

from services.audit.index import Filter
from services.audit.record import Principal, Summary


def matches(wanted: Filter, summary: Summary) -> bool:
    """Say whether a record matches a filter.

    The index says where to look; this decides, so that no index can hand out a record that was not
    asked for.
    """
    who = summary.principal or Principal()
    return (
        (not wanted.tenant or wanted.tenant == who.tenant)
        and (not wanted.issuer or wanted.issuer == who.issuer)
        and _is_named(wanted, who)
        and (not wanted.request_id or wanted.request_id == summary.request_id)
        and (not wanted.types or summary.type in wanted.types)
        and (not wanted.start_time or summary.event_time >= wanted.start_time)
        and (not wanted.end_time or summary.event_time < wanted.end_time)
    )


def _is_named(wanted: Filter, who: Principal) -> bool:
    if not wanted.subject and not wanted.pseudonyms:
        return True
    if who.pseudonym:
        return who.subject in wanted.pseudonyms
    return bool(who.subject) and who.subject == wanted.subject
