"""`weaver audit archive` and `weaver audit restore`: a log's copy elsewhere, proven both ways.

Exit codes: 0 good, 1 damaged, forked or gone back, 2 called in a wrong way, 3 the target cannot be
used now.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from services.audit.archives.archived import ArchiveReport, ArchivingError
from services.audit.archives.archiving import Archiver, ArchivingBusyError
from services.audit.archives.restoring import Restored, RestoreError, restore
from services.audit.archives.targets import Target, TargetError, TargetURLError, open_target
from services.audit.layout import Layout
from services.cli.audit.options import (
    AsJSON,
    KeysFile,
    LogOption,
    console,
    default_log,
    log_directory,
    progress_bar,
    usage,
)

app = typer.Typer()

_SHOWN = 20
_NOT_NOW = 3
_WHERE = "s3://bucket/prefix (credentials from the AWS_* variables) or file:///directory."


To = Annotated[str, typer.Option("--to", help=f"Where to: {_WHERE}")]
From = Annotated[str, typer.Option("--from", help=f"The archive: {_WHERE}")]
Full = Annotated[
    bool, typer.Option("--full", help="Read back and compare every object, not only new ones.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Replace objects that are not what the log signed.")
]
Place = Annotated[
    Path | None,
    typer.Option("--log", help="Where the log shall lie; nothing may be there yet."),
]


@app.command("archive")
def archive_command(
    to: To,
    log: LogOption = None,
    full: Full = False,  # noqa: FBT002 - a flag
    repair: Repair = False,  # noqa: FBT002
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Copy what is new of a log to its archive, and prove the copy by reading it back."""
    layout = Layout(log_directory(log))
    target = _target("--to", to)
    archiver = Archiver(layout, target, full=full or repair, repair=repair)
    try:
        with progress_bar(enabled=not as_json, doing="archiving") as progress:
            report = archiver.run(progress)
    except ArchivingBusyError as error:
        _end(_NOT_NOW, str(error), to, as_json=as_json)
    except ArchivingError as error:
        _end(1, str(error), to, as_json=as_json)
    except TargetError as error:
        _end(_NOT_NOW, f"{error}. Run it again: it goes on.", to, as_json=as_json)
    if as_json:
        sys.stdout.write(json.dumps(report.document()) + "\n")
    else:
        _print_archive(report)
    if report.good and not report.remembered:
        sys.stderr.write(
            f"weaver: {layout.private} cannot be written, so the service does not learn of this "
            "archive: retention waits, and its age is not measured\n"
        )
    raise typer.Exit(0 if report.good else 1)


@app.command("restore")
def restore_command(
    source: From,
    log: Place = None,
    keys: KeysFile = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Bring a log back from its archive, verified whole before it is put in its place."""
    place = (log or default_log()).absolute()
    target = _target("--from", source)
    try:
        with progress_bar(enabled=not as_json, doing="restoring") as progress:
            restored = restore(target, place, keys, progress)
    except RestoreError as error:
        _end(2, str(error), source, as_json=as_json)
    except TargetError as error:
        _end(_NOT_NOW, str(error), source, as_json=as_json)
    report = restored.report
    if as_json:
        document = {**report.document(), "log": str(place), "restored": report.good}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print_restored(restored, place)
    raise typer.Exit(0 if report.good else 1)


def _target(option: str, url: str) -> Target:
    try:
        return open_target(url, os.environ)
    except TargetURLError as error:
        usage(f"{option}: {error}")


def _print_archive(report: ArchiveReport) -> None:
    out = console()
    out.print(f"archive      {report.target} ({report.origin})")
    out.print(f"records      {report.size}, {report.previous_size} of them before")
    out.print(f"copied       {report.copied} objects, {report.bytes_copied} bytes, read back")
    out.print(f"present      {report.present} objects")
    if report.absent:
        out.print(f"pruned       {report.absent} bundles were pruned before they were archived")
    for kind, paths in (
        ("lost, copied again", report.healed),
        ("repaired", report.repaired),
        ("DAMAGED", report.damaged),
    ):
        for path in paths[:_SHOWN]:
            out.print(f"{kind}: {path}")
        if len(paths) > _SHOWN:
            out.print(f"{kind}: and {len(paths) - _SHOWN} more; --json lists them")
    if report.good:
        out.print("the archive is good")
    else:
        out.print("the archive is DAMAGED: --repair puts back what the log signed")


def _print_restored(restored: Restored, place: Path) -> None:
    out, report = console(), restored.report
    for finding in report.findings[:_SHOWN]:
        out.print(f"{finding.verdict}: {finding.kind}: {finding.message}")
    if not report.good:
        out.print("the archive is DAMAGED; nothing was restored")
        return
    out.print(f"restored     {report.size} records of {report.origin} into {place}")
    if restored.pruned:
        out.print(f"pruned       {restored.pruned} of them: the archive has their hashes")
    out.print("not in it    private signing keys; the side store (commitment keys, captured texts,")
    out.print("             pseudonyms); records that were appended after the archive was made")
    out.print(f"warning      was anything published beyond {report.size} records? Then do not")
    out.print("             continue this log: witnesses and readers would see a fork. Start")
    out.print("             another (WEAVER_AUDIT_REPLICA), and keep this one to read.")


def _end(code: int, message: str, target: str, *, as_json: bool) -> NoReturn:
    if as_json:
        document: dict[str, Any] = {"good": False, "target": target, "error": message}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(code)
