"""`weaver backup list`, `prune` and `keygen`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from services.cli.backup import age_keys
from services.cli.backup.options import (
    AsJSON,
    From,
    chosen,
    shelf,
    size_text,
    spoken,
    tell,
    usage,
    utc_now,
)
from services.cli.backup.retention import Retention, kept
from services.cli.backup.shelf import KINDS, ShelfError

app = typer.Typer()

_RULE = Retention()

Kinds = Annotated[list[str] | None, typer.Option("--kind", help=f"Only these: {', '.join(KINDS)}.")]
Daily = Annotated[int, typer.Option("--keep-daily", min=0, help="Days that keep their newest.")]
Weekly = Annotated[int, typer.Option("--keep-weekly", min=0, help="Weeks likewise.")]
Monthly = Annotated[int, typer.Option("--keep-monthly", min=0, help="Months likewise.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]


@app.command("list")
def list_command(
    source: From,
    kind: Kinds = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """List the backups that are there, and why retention keeps each."""
    backups = shelf("--from", source)
    rows: list[dict[str, Any]] = []
    with spoken(as_json=as_json):
        for one in [chosen(name) for name in kind or KINDS]:
            found = []
            for stamp in backups.stamps(one):
                try:
                    found.append(backups.manifest(one, stamp))
                except ShelfError as error:
                    rows.append({"kind": one, "time": stamp, "damaged": str(error)})
            reasons = kept([backup.when for backup in found], _RULE, utc_now())
            rows += [
                {
                    **msgspec.to_builtins(backup),
                    "stored": backup.stored,
                    "kept": reasons.get(backup.when, []),
                }
                for backup in found
            ]
    if as_json:
        tell({"target": backups.target.name, "backups": rows}, (), as_json=True)
        return
    table = Table("kind", "at", "size", "keys", "kept as", "of", box=None)
    for row in rows:
        if "damaged" in row:
            table.add_row(row["kind"], row["time"], "DAMAGED")
            continue
        why = ", ".join(row["kept"]) or "to be pruned"
        keys = str(row["facts"].get("keys", ""))
        table.add_row(row["kind"], row["time"], size_text(row["size"]), keys, why, row["source"])
    Console(width=None if sys.stdout.isatty() else 1_000, highlight=False).print(table)


@app.command("prune")
def prune_command(  # noqa: PLR0913, PLR0917 - each is an option
    source: From,
    kind: Kinds = None,
    daily: Daily = _RULE.daily,
    weekly: Weekly = _RULE.weekly,
    monthly: Monthly = _RULE.monthly,
    dry_run: DryRun = False,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Remove backups that retention does not keep; the newest always stays."""
    backups = shelf("--from", source)
    rule = Retention(daily, weekly, monthly)
    document: dict[str, Any] = {"good": True, "target": backups.target.name, "dry_run": dry_run}
    lines = []
    with spoken(as_json=as_json):
        for one in [chosen(name) for name in kind or KINDS]:
            staying, going = backups.prune(one, rule, utc_now(), dry_run=dry_run)
            document[one] = {"kept": staying, "pruned": going}
            what = "would go" if dry_run else "gone"
            lines.append(f"{one:<12} {len(staying)} kept, {len(going)} {what}")
            lines += [f"  {stamp}" for stamp in going]
    tell(document, lines, as_json=as_json)


@app.command("keygen")
def keygen_command(
    output: Annotated[Path, typer.Option("--output", help="The new file, for its owner alone.")],
) -> None:
    """Make an identity that opens backups, and print its recipient, which seals them.

    Jobs get the recipient alone. Keep the identity offline, twice: without it no backup opens.
    """
    identity, recipient = age_keys.generate()
    text = f"# created: {utc_now().isoformat(timespec='seconds')}\n# public key: {recipient}\n"
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        usage(f"--output: cannot make {output}: {error.strerror}")
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{text}{identity}\n")
    sys.stdout.write(f"{recipient}\n")
