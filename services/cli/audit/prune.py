"""`weaver audit prune`: remove old entries now, by the service that writes the log or without."""

import asyncio
import json
import os
import secrets
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from services.audit.archives.retention import Minimum, Retention, Rule
from services.audit.archives.wiring import (
    ANSWER,
    REQUEST,
    PruneAnswer,
    PruneRequest,
    write_message,
)
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.layout import Layout, LayoutError
from services.audit.note import NoteError
from services.audit.settings import AuditSettings
from services.audit.tiles import TileDirectory
from services.cli.audit.options import AsJSON, LogOption, console, log_directory, usage
from services.common import logs
from services.common.clock import SystemClock
from services.common.settings import SettingsError, load

app = typer.Typer()

_WITHIN_S = 300.0
_POLL_S = 0.1

OlderThan = Annotated[int, typer.Option("--older-than", min=1, help="Days; younger records stay.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


@app.command("prune")
def prune_command(
    older_than: OlderThan,
    log: LogOption = None,
    dry_run: DryRun = False,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """Remove entry bundles that are older than so many days; every hash stays.

    What is not archived stays, unless WEAVER_AUDIT_RETENTION_UNARCHIVED says otherwise.
    """
    layout = Layout(log_directory(log))
    try:
        settings = load(AuditSettings, WEAVER_AUDIT_PATH=layout.log)
    except SettingsError as error:
        usage(str(error))
    minimum = Minimum(layout)
    if dry_run:
        rule = Rule(older_than, not settings.retention_unarchived)
        answer = PruneAnswer("", _would_keep(layout, minimum, rule), minimum())
    else:
        answer = asyncio.run(_prune(settings, layout, older_than))
    if as_json:
        document = {
            "log": str(layout.log),
            "first_kept": answer.minimum,
            "pruned": answer.minimum - answer.before,
            "dry_run": dry_run,
            "error": answer.error,
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        _print(answer, dry_run=dry_run)
    raise typer.Exit(1 if answer.error else 0)


def _print(answer: PruneAnswer, *, dry_run: bool) -> None:
    out = console()
    if answer.error:
        sys.stderr.write(f"weaver: {answer.error}\n")
    elif answer.minimum == answer.before:
        out.print(
            "nothing to prune: no further bundle of records is old enough and archived; "
            "`weaver audit archive` first"
        )
    else:
        would = "would be " if dry_run else ""
        out.print(f"pruned       records {answer.before} to {answer.minimum - 1} {would}removed")
        out.print(f"kept         from record {answer.minimum} on, and every hash")


def _would_keep(layout: Layout, minimum: Minimum, rule: Rule) -> int:
    class Resting:
        """The log as it lies on disk."""

        checkpoint: SignedCheckpoint | None = None

        async def wait_integrated(self, size: int, timeout_s: float) -> bool:  # noqa: ARG002 - the port's
            return False

    async def announce(attributes: dict[str, str]) -> int | None:  # noqa: ARG001 - the port's
        return None

    resting = Resting()
    try:
        resting.checkpoint = parse_signed_checkpoint(layout.checkpoint.read_bytes())
        retention = Retention(
            layout=layout,
            tiles=TileDirectory(layout.log, layout.log),
            log=resting,
            minimum=minimum,
            announce=announce,
            forget=(),
            clock=SystemClock(),
        )
        return retention.eligible(rule)[0]
    except (OSError, NoteError, ValueError) as error:
        usage(f"the log cannot be read: {error}")


async def _prune(settings: AuditSettings, layout: Layout, days: int) -> PruneAnswer:
    """Have the log pruned by whoever writes it: the service, or this process when none does."""
    from services.audit.wiring import build  # noqa: PLC0415 - only where no service runs

    async with AsyncExitStack() as stack:
        if not _is_written(layout):
            logs.configure(settings, "weaver")
            try:
                await build(settings, stack)
            except SettingsError as error:
                usage(str(error))
        return await _ask(layout, days)


def _is_written(layout: Layout) -> bool:
    try:
        os.close(layout.acquire())
    except (LayoutError, OSError):
        return True
    return False


async def _ask(layout: Layout, days: int) -> PruneAnswer:
    token = secrets.token_hex(8)
    answer = layout.private / ANSWER
    try:
        await asyncio.to_thread(write_message, layout.private / REQUEST, PruneRequest(token, days))
    except OSError as error:
        usage(f"{error.filename}: {error.strerror}; run this as the service's user")
    end = time.monotonic() + _WITHIN_S
    while time.monotonic() < end:
        found = await asyncio.to_thread(_read, answer)
        if found is not None and found.token == token:
            return found
        await asyncio.sleep(_POLL_S)
    return PruneAnswer(token, error=f"the service did not answer within {_WITHIN_S:.0f} s")


def _read(path: Path) -> PruneAnswer | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=PruneAnswer)
    except (OSError, msgspec.DecodeError):
        return None
