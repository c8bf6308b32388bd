"""`weaver backup restore`: bring a backup back, verified whole before it counts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from services.audit.layout import Layout
from services.cli.audit.options import default_log
from services.cli.backup import bundle, scratch
from services.cli.backup.options import (
    AsJSON,
    At,
    From,
    IdentityFile,
    LogOption,
    PassphraseFile,
    chosen,
    identities,
    shelf,
    size_text,
    spoken,
    tell,
    usage,
    watched,
)
from services.cli.backup.pouring import pour
from services.cli.backup.shelf import KINDS, ShelfError
from services.cli.backup.snapshot import session
from services.cli.backup.taking import store_address

app = typer.Typer()

Output = Annotated[
    Path | None,
    typer.Option("--output", help="redis: write the RDB file here. keys: this directory."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="redis: keys that are in the store give way.")
]


@app.command("restore")
def restore_command(  # noqa: PLR0913, PLR0917 - each is an option
    kind: Annotated[str, typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="What.")],
    source: From,
    identity: IdentityFile = None,
    passphrase_file: PassphraseFile = None,
    at: At = "",
    output: Output = None,
    replace: Replace = False,  # noqa: FBT002 - a flag
    log: LogOption = None,
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Bring a backup back.

    redis: into the store that the REDIS_* variables name, while it runs; keys that are there stay.
    keys: into the directory --output. side-store: beside the log, whose service is stopped.
    """
    wanted = chosen(kind)
    opened_by = identities(identity, passphrase_file)
    backups = shelf("--from", source)
    with spoken(as_json=as_json):
        backup = backups.manifest(wanted, at)
        data = watched(backups.open(backup, opened_by), "fetching", quiet=as_json)
        if wanted == "redis" and output is None:
            done = _into_the_store(data, replace=replace)
        elif wanted == "redis" and output is not None:
            scratch.write(data, output)
            done = {"file": str(output)}
        elif wanted == "keys":
            if output is None:
                usage("--output: name the directory for the keys")
            files = bundle.unpack(data)
            bundle.put_keys(files, output)
            done = {"directory": str(output), "files": ", ".join(sorted(files))}
        else:
            done = _side_store(data, Layout(log or default_log()))
    document = {"good": True, "kind": wanted, "time": backup.time, **done}
    lines = [
        f"restored     {wanted} of {backup.time}, {size_text(backup.size)}, verified",
        *[f"{name.replace('_', ' '):<13}{value}" for name, value in done.items()],
    ]
    if wanted == "redis" and output is not None:
        lines.append(
            "next         start the store on it with `--appendonly no`, then "
            "`CONFIG SET appendonly yes`: with AOF on it would start empty"
        )
    tell(document, lines, as_json=as_json)


def _into_the_store(data: Iterator[bytes], *, replace: bool) -> dict[str, Any]:
    with scratch.private_directory() as directory:
        scratch.write(data, directory / scratch.SNAPSHOT)
        with scratch.loaded(directory) as held, session(store_address()) as store:
            done = pour(held, store, replace=replace, progress=lambda _: None)
    return {"restored_keys": done.restored, "kept_keys": done.kept}


def _side_store(data: Iterator[bytes], layout: Layout) -> dict[str, Any]:
    place = layout.side_store
    if place.exists() and any(place.iterdir()):
        msg = f"{place} is there already: stop the audit service, and move it away"
        raise ShelfError(msg)
    draft = place.with_name(f"{place.name}.restoring")
    draft.mkdir(0o700, parents=True)
    try:
        names = bundle.put_side_store(data, draft)
        if place.exists():
            place.rmdir()
        draft.rename(place)
    finally:
        for leftover in draft.glob("*"):
            leftover.unlink()
        if draft.exists():
            draft.rmdir()
    return {"directory": str(place), "files": ", ".join(names)}
