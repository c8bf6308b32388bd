"""`weaver audit export` and `verify-export`: records in a file, tied to a checkpoint."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from services.audit.keys.archive import ArchiveError
from services.audit.keys.signatures import load_keys
from services.audit.note import NoteError
from services.audit.verification.export import export, manifest_path, verify_export
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
from services.cli.audit.options import PlaceOption, progress_bar, usage
from services.cli.audit.places import CAFile, reading

app = typer.Typer()


@app.command("export")
def export_command(  # noqa: PLR0913, PLR0917 - each is an option
    log: PlaceOption = None,
    ca: CAFile = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the records go.")] = Path(
        "audit-export.jsonl"
    ),
    request_id: RequestOption = "",
    tenant: TenantOption = "",
    subject: SubjectOption = "",
    event_type: TypeOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
) -> None:
    """Write records as JSON Lines, and beside them a manifest tied to the checkpoint.

    `weaver audit verify-export` proves the file with a public key alone.
    """
    wanted = filter_of(request_id, tenant, subject, event_type, since, until)
    with reading(log, ca) as offline, progress_bar(enabled=True, doing="exporting") as progress:
        try:
            wanted = resolved(wanted, log, offline)
            manifest = export(offline, wanted, output, progress)
        except OSError as error:
            usage(f"cannot write {error.filename or output}: {error.strerror}")
    sys.stdout.write(f"{output}: {manifest.records} records\n{manifest_path(output)}\n")


@app.command("verify-export")
def verify_export_command(
    manifest: Annotated[Path, typer.Argument(metavar="FILE", help="The export or its manifest.")],
    key: Annotated[
        Path, typer.Option("--key", help="A PEM public key, verifier keys or a key archive.")
    ],
) -> None:
    """Prove every record of an export with nothing but a public key."""
    try:
        trusted = load_keys(key)
    except ArchiveError as error:
        usage(str(error))
    beside = manifest_path(manifest)
    if not (manifest.exists() or beside.exists()):
        usage(f"{manifest}: there is no such export")
    try:
        with progress_bar(enabled=True) as progress:
            path = beside if beside.exists() else manifest
            found, signers = verify_export(path, trusted.named, progress)
    except NoteError as error:
        sys.stderr.write(f"weaver: not proven: {error}\n")
        raise typer.Exit(1) from None
    names = " and ".join(signer.algorithm for signer in signers)
    what = "all records" if found.whole else "a choice of the records"
    sys.stdout.write(
        f"proven: {found.records} records, {what} of {found.origin} at size {found.size}, "
        f"signed with {names}\n"
    )
    if not found.whole:
        sys.stdout.write("that no record is left out of the choice is not proven by this\n")
