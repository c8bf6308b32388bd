"""`weaver audit list` and `show`: the records of a log."""

import sys
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from services.audit.record import decode
from services.cli.audit.filters import (
    RequestOption,
    SinceOption,
    SubjectOption,
    TenantOption,
    TypeOption,
    UntilOption,
    filter_of,
)
from services.cli.audit.names import resolved
from services.cli.audit.options import AsJSON, PlaceOption, console
from services.cli.audit.places import CAFile, reading

app = typer.Typer()


@app.command("list")
def list_command(  # noqa: PLR0913, PLR0917 - each is an option
    log: PlaceOption = None,
    ca: CAFile = None,
    request_id: RequestOption = "",
    tenant: TenantOption = "",
    subject: SubjectOption = "",
    event_type: TypeOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    page: Annotated[str, typer.Option(help="Go on where a page ended; it says with what.")] = "",
    ascending: Annotated[bool, typer.Option("--ascending", help="Oldest first.")] = False,  # noqa: FBT002
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """List records, newest first."""
    wanted = filter_of(request_id, tenant, subject, event_type, since, until)
    with reading(log, ca) as offline:
        wanted = resolved(wanted, log, offline)
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
