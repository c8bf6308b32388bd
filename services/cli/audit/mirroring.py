"""`weaver audit mirror`: a copy of a log, kept up to date over HTTP."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from services.audit.keys.archive import ArchiveError
from services.audit.keys.signatures import Keys, load_keys
from services.audit.note import NoteError
from services.audit.verification.mirroring import mirror
from services.cli.audit.options import AsJSON, KeysFile, progress_bar, usage
from services.cli.audit.places import CAFile, remote_log

app = typer.Typer()


@app.command("mirror")
def mirror_command(
    url: Annotated[str, typer.Argument(help="The front door's address, or that of a copy.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the copy lies.")],
    keys: KeysFile = None,
    ca: CAFile = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Copy what is new of a log, and verify that the copy continues what was there."""
    with remote_log(url, ca) as log, progress_bar(enabled=True, doing="copying") as progress:
        try:
            trusted = Keys(log.keys()) if keys is None else load_keys(keys)
            report = mirror(log, directory, trusted, progress)
        except (ArchiveError, NoteError) as error:
            usage(str(error))
        except OSError as error:
            usage(f"{error.filename or url}: {error.strerror or error}")
    good = report.passed("integrity") and report.passed("signatures")
    if as_json:
        sys.stdout.write(json.dumps(report.document()) + "\n")
    elif good:
        sys.stdout.write(f"{directory}: {report.size} records, verified as they were signed\n")
    else:
        for finding in report.findings[:20]:
            sys.stdout.write(f"{finding.verdict}: {finding.kind}: {finding.message}\n")
        sys.stdout.write("the copy was NOT brought up to date: it shows what it showed before\n")
    raise typer.Exit(0 if good else 1)
