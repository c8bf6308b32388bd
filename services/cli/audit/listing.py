"""`weaver audit list` and `show`: the records of a log."""

import sys
from datetime import UTC, datetime
from typing import Annotated, get_args

import msgspec
import typer
from rich.table import Table

from services.audit.index import Filter
from services.audit.record import EventType, decode
from services.cli.audit.options import AsJSON, PlaceOption, console, usage
from services.cli.audit.places import CAFile, reading

app = typer.Typer()


@app.command("list")
def list_command(  # noqa: PLR0913, PLR0917 - each is an option
    log: PlaceOption = None,
    ca: CAFile = None,
    request_id: Annotated[str, typer.Option(help="Records of this request.")] = "",
    tenant: Annotated[str, typer.Option(help="Records of this tenant.")] = "",
    subject: Annotated[str, typer.Option(help="Records of this subject.")] = "",
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Records of this type; repeatable.")
    ] = None,
    since: Annotated[str, typer.Option(help="At or after this time (RFC 3339).")] = "",
    until: Annotated[str, typer.Option(help="Before this time (RFC 3339).")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    page: Annotated[str, typer.Option(help="Go on where a page ended; it says with what.")] = "",
    ascending: Annotated[bool, typer.Option("--ascending", help="Oldest first.")] = False,  # noqa: FBT002
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """List records, newest first."""
    for name in event_type or ():
        if name not in get_args(EventType):
            usage(f"--type: {name!r} is none of {', '.join(get_args(EventType))}")
    wanted = Filter(
        tenant=tenant,
        subject=subject,
        pseudonyms=(subject,) if subject else (),
        request_id=request_id,
        types=tuple(event_type or ()),
        start_time=_time("--since", since),
        end_time=_time("--until", until),
    )
    with reading(log, ca) as offline:
        found = offline.page(wanted, limit=limit, token=page, ascending=ascending)
    if as_json:
        for index, entry in found.records:
            sys.stdout.write(_line(index, entry) + "\n")
    else:
        table = Table("index", "time", "type", "request", "principal", "model", "outcome", box=None)
        for index, entry in found.records:
            table.add_row(*_row(index, entry))
        console().print(table)
    if found.next_token:
        sys.stderr.write(f"there are more: --page {found.next_token}\n")


@app.command("show")
def show_command(
    index: Annotated[int, typer.Argument(min=0, help="The record's index.")],
    log: PlaceOption = None,
    ca: CAFile = None,
    raw: Annotated[bool, typer.Option("--raw", help="The very bytes that are hashed.")] = False,  # noqa: FBT002
) -> None:
    """Show one record."""
    with reading(log, ca) as offline:
        entry = offline.entry(index)
    if raw:
        sys.stdout.buffer.write(entry)
    else:
        sys.stdout.write(msgspec.json.format(entry, indent=2).decode() + "\n")


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


def _row(index: int, entry: bytes) -> tuple[str, ...]:
    try:
        record = decode(entry)
    except ValueError:
        return str(index), "", "not a record of a known schema", "", "", "", ""
    who = record.principal
    principal = f"{who.tenant}/{who.subject}" if who else ""
    outcome = record.outcome or record.reason
    model = record.answered_model or record.requested_model
    return str(index), record.event_time, record.type, record.request_id, principal, model, outcome


def _line(index: int, entry: bytes) -> str:
    return f'{{"index":{index},"record":{entry.decode()}}}'
