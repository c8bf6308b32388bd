"""`weaver audit verify`."""

import json
import sys
from pathlib import Path
from typing import NoReturn

import typer

from services.audit.archive import ArchiveError
from services.audit.layout import Layout
from services.audit.note import NoteError
from services.audit.offline import published_before
from services.audit.report import Report
from services.audit.signatures import load_keys
from services.audit.verifier import verify
from services.cli.audit.options import (
    AsJSON,
    Directory,
    KeysFile,
    console,
    log_directory,
    progress_bar,
    usage,
)

app = typer.Typer()

_SHOWN = 20


@app.command("verify")
def verify_command(
    directory: Directory = None,
    keys: KeysFile = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Verify a log: nothing changed, nothing missing, signed by the right keys."""
    log = log_directory(directory)
    keys_file = keys or Layout(log).keys
    try:
        trusted = load_keys(keys_file)
    except ArchiveError as error:
        if keys is not None or not keys_file.exists():
            usage(str(error))
        _fail_on_archive(str(error), as_json=as_json)
    try:
        history = published_before(log)
    except NoteError as error:
        _fail_on_archive(str(error), as_json=as_json)
    with progress_bar(enabled=not as_json) as progress:
        report = verify(log, trusted, history=history, progress=progress)
    if as_json:
        sys.stdout.write(json.dumps({**report.document(), "keys": str(keys_file)}) + "\n")
    else:
        _print_report(report, log, keys_file, own=keys is None)
    raise typer.Exit(0 if report.good else 1)


def _print_report(report: Report, log: Path, keys_file: Path, *, own: bool) -> None:
    out = console()
    advice = " (beside the log: use --keys with a copy of your own)" if own else ""
    out.print(f"log          {log} ({report.origin or 'unknown'})")
    out.print(f"keys         {keys_file}{advice}")
    out.print(f"records      {report.good_records} of {report.size} good")
    out.print(f"checkpoints  {report.checkpoints} good")
    if report.beyond:
        out.print(f"unsigned     {report.beyond} records behind the checkpoint")
    for line in report.signatures:
        out.print(f"signature    {line.algorithm} {line.fingerprint[:16]} {line.state}")
    for verdict in ("integrity", "completeness", "signatures"):
        out.print(f"{verdict:<12} {'good' if report.passed(verdict) else 'BAD'}")
    for index, name in report.interrupted[:_SHOWN]:
        out.print(f"interrupted: record {index}, intent {name}, has no outcome")
    if report.interrupted_count > _SHOWN:
        out.print(f"interrupted: and {report.interrupted_count - _SHOWN} more")
    for finding in report.findings[:_SHOWN]:
        out.print(f"{finding.verdict}: {finding.kind}: {finding.message}")
    if len(report.findings) > _SHOWN:
        out.print(f"and {len(report.findings) - _SHOWN} more findings; --json lists them")
    if report.first_bad_index is not None:
        out.print(f"first bad record: {report.first_bad_index}")
    out.print("the log is good" if report.good else "the log is DAMAGED")


def _fail_on_archive(message: str, *, as_json: bool) -> NoReturn:
    """End as damaged: what lies beside the log to verify it with is itself damaged."""
    if as_json:
        document = {"good": False, "findings": [{"kind": "changed", "message": message}]}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"{message}\nthe log is DAMAGED, or what lies beside it is\n")
    raise typer.Exit(1)
