"""The options that choose records, and the filter that they make."""

from datetime import UTC, datetime
from typing import Annotated, get_args

import typer

from services.audit.index import Filter
from services.audit.record import EventType
from services.cli.audit.options import usage

RequestOption = Annotated[str, typer.Option("--request-id", help="Records of this request.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="Records of this tenant.")]
SubjectOption = Annotated[
    str, typer.Option("--subject", "--principal", help="Records of this subject or pseudonym.")
]
TypeOption = Annotated[
    list[str] | None, typer.Option("--type", help="Records of this type; repeatable.")
]
SinceOption = Annotated[str, typer.Option("--since", help="At or after this time (RFC 3339).")]
UntilOption = Annotated[str, typer.Option("--until", help="Before this time (RFC 3339).")]


def filter_of(  # noqa: PLR0913, PLR0917 - each is an option
    request_id: str,
    tenant: str,
    subject: str,
    event_types: list[str] | None,
    since: str,
    until: str,
) -> Filter:
    """Return the filter that options make; end with a sentence where they make none."""
    for name in event_types or ():
        if name not in get_args(EventType):
            usage(f"--type: {name!r} is none of {', '.join(get_args(EventType))}")
    return Filter(
        tenant=tenant,
        subject=subject,
        pseudonyms=(subject,) if subject else (),
        request_id=request_id,
        types=tuple(event_types or ()),
        start_time=_time("--since", since),
        end_time=_time("--until", until),
    )


def _time(option: str, text: str) -> str:
    """Return a time as records write it."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        usage(f"{option}: {text!r} is no RFC 3339 time")
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
