"""`weaver audit verify`: three verdicts on a log, in a directory or at an address."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from services.audit.archives.pruning import recorded_pruning
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.archive import ArchiveError, KeyArchive, load_archive
from services.audit.keys.signatures import Keys, load_keys
from services.audit.keys.succession import Succession, endorsements, follow
from services.audit.layout import Layout
from services.audit.note import MAX_NOTE_SIZE, NoteError, VerifierKey
from services.audit.verification.inventory import LogDirectory, Source, read_regular
from services.audit.verification.offline import published_before
from services.audit.verification.remembered import Remembered
from services.audit.verification.remote import RemoteLog
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.cli.audit.options import (
    AsJSON,
    KeysFile,
    console,
    log_directory,
    progress_bar,
    usage,
)
from services.cli.audit.places import CAFile, is_address, remembered, remote_log
from services.cli.audit.vouching import PolicyFile, vouching_of

app = typer.Typer()

_SHOWN = 20
_LAST = "last"

Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[DIR|URL]",
        help="The log's directory, the front door's address, or that of a copy. "
        "Default: WEAVER_AUDIT_PATH, or this machine's.",
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT",
        help="Rest on this checkpoint, a file that you kept, and read only what is newer; "
        "`last` for the one that was accepted last.",
    ),
]
Remember = Annotated[
    bool,
    typer.Option(
        "--remember/--no-remember",
        help="Hold the log to the checkpoint that was accepted last, and remember this one.",
    ),
]


@dataclass
class _Task:
    """What is to be verified, and with what."""

    name: str
    source: Source
    keys: Keys
    keys_name: str
    own_keys: bool
    history: list[SignedCheckpoint]


@app.command("verify")
def verify_command(  # noqa: PLR0913, PLR0917 - each is an option
    target: Target = None,
    keys: KeysFile = None,
    since: Since = None,
    ca: CAFile = None,
    policy: PolicyFile = None,
    remember: Remember = True,  # noqa: FBT002 - a flag
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Verify a log: nothing changed, nothing missing, signed by the right keys."""
    place: AbstractContextManager[RemoteLog | Path]
    if target is not None and is_address(target):
        place = remote_log(target, ca)
    else:
        place = nullcontext(log_directory(None if target is None else Path(target)))
    with place as log:
        if isinstance(log, Path):
            task = _in_directory(log, keys, as_json=as_json)
        else:
            task = _at_address(str(target), log, keys)
        report = _verify(task, since, remembered() if remember else None, as_json=as_json)
    vouching = None if policy is None else vouching_of(policy, report, task.history)
    if as_json:
        document = {**report.document(), "keys": task.keys_name}
        document |= {} if vouching is None else {"vouching": vouching.document()}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        if vouching is not None:
            vouching.print(console(), report.size)
        _print_report(report, task, vouched=vouching is not None)
    raise typer.Exit(0 if report.good and (vouching is None or vouching.good) else 1)


def _in_directory(log: Path, keys: Path | None, *, as_json: bool) -> _Task:
    keys_file = keys or Layout(log).keys
    if keys is None and keys_file.exists() and not keys_file.is_file():
        _fail_on_archive(f"{keys_file}: not a plain file", as_json=as_json)
    try:
        trusted = load_keys(keys_file)
    except ArchiveError as error:
        if keys is not None or not keys_file.exists():
            usage(f"{error}. Name the log's public keys with --keys.")
        _fail_on_archive(str(error), as_json=as_json)
    try:
        history = published_before(log)
    except NoteError as error:
        _fail_on_archive(str(error), as_json=as_json)
    source = LogDirectory(log)
    found = _followed(trusted, lambda: load_archive(Layout(log).keys), own=keys is None)
    history += found.endorsements
    return _Task(str(log), source, found.keys, str(keys_file), keys is not None, history)


def _followed(trusted: Keys, offered: Callable[[], KeyArchive], *, own: bool) -> Succession:
    """Return where keys of an auditor's own lead, by the endorsements that the log offers."""
    if own:
        return Succession(trusted, endorsements(trusted.archive) if trusted.archive else [])
    try:
        found = follow(trusted, offered(), time.time())
    except (ArchiveError, OSError):
        return Succession(trusted)
    for sentence in found.followed:
        sys.stderr.write(f"weaver: {sentence}; put it among the keys that you keep\n")
    for sentence in found.stale:
        sys.stderr.write(f"weaver: {sentence}\n")
    return found


def _at_address(url: str, log: RemoteLog, keys: Path | None) -> _Task:
    try:
        trusted = Keys(log.keys()) if keys is None else load_keys(keys)
    except ArchiveError as error:
        usage(str(error))
    name = f"those that {url} names" if keys is None else str(keys)
    try:
        witnessed = log.witnessed()
        history = [] if witnessed is None else [parse_signed_checkpoint(witnessed)]
    except NoteError as error:
        usage(f"{url}: the checkpoint that witnesses cosigned is no checkpoint: {error}")
    found = _followed(trusted, log.keys, own=keys is None)
    history += found.endorsements
    return _Task(url, log, found.keys, name, keys is not None, history)


def _verify(task: _Task, since: str | None, memory: Remembered | None, *, as_json: bool) -> Report:
    try:
        origin = parse_signed_checkpoint(task.source.checkpoint()).checkpoint.origin
    except (OSError, NoteError):
        origin = ""  # The verification says what is wrong with it.
    known = task.keys.named(origin) if origin else []
    try:
        accepted = memory.recall(known) if memory is not None else []
        rest = _rest_on(since, accepted)
    except NoteError as error:
        usage(f"{error}. Mend it, or remove it, or use --no-remember.")
    history = [*task.history, *accepted]
    with progress_bar(enabled=not as_json) as progress:
        pruned = recorded_pruning(task.source)
        report = verify(
            task.source, task.keys, history=history, since=rest, pruned=pruned, progress=progress
        )
        if not report.good and (now := recorded_pruning(task.source)) != pruned:
            # A service that runs pruned its log meanwhile.
            report = verify(
                task.source, task.keys, history=history, since=rest, pruned=now, progress=progress
            )
    if memory is not None:
        _accept(report, memory, known)
    return report


def _rest_on(since: str | None, accepted: Sequence[SignedCheckpoint]) -> SignedCheckpoint | None:
    if since is None:
        return None
    if since == _LAST:
        if not accepted:
            usage("--since last: no checkpoint of this log was accepted yet; verify all of it.")
        return accepted[-1]
    try:
        return parse_signed_checkpoint(read_regular(Path(since), MAX_NOTE_SIZE))
    except OSError as error:
        usage(f"--since: {since}: {error.strerror or error}")
    except NoteError as error:
        usage(f"--since: {since} is no checkpoint: {error}")


def _accept(report: Report, memory: Remembered, keys: Sequence[VerifierKey]) -> None:
    """Remember the newest checkpoint if nothing speaks against it."""
    if report.signed is None or not (report.passed("integrity") and report.passed("signatures")):
        return
    try:
        memory.accept(report.signed, keys)
    except OSError as error:
        sys.stderr.write(
            f"weaver: this checkpoint is not remembered: {error.filename}: {error.strerror}; "
            "WEAVER_AUDITOR_DIR names another directory\n"
        )


def _print_report(report: Report, task: _Task, *, vouched: bool) -> None:
    out = console()
    advice = "" if task.own_keys else " (the log's own word: use --keys with a copy of yours)"
    out.print(f"log          {task.name} ({report.origin or 'unknown'})")
    out.print(f"keys         {task.keys_name}{advice}")
    out.print(f"records      {report.good_records} of {report.size} good")
    if report.since:
        out.print(
            f"since        {report.size - report.since} new records verified; the first "
            f"{report.since} rest on the checkpoint that was kept"
        )
    if report.pruned:
        out.print(f"pruned       {report.pruned} records: their hashes verify, their text is gone")
    out.print(f"checkpoints  {report.checkpoints} good")
    if report.beyond:
        out.print(f"unsigned     {report.beyond} records behind the checkpoint")
    for line in report.signatures:
        if vouched and line.algorithm.startswith("cosignature"):
            continue  # The policy has said more of it.
        out.print(f"signature    {line.algorithm} {line.fingerprint[:16]} {line.state}")
    for verdict in ("integrity", "completeness", "signatures"):
        out.print(f"{verdict:<12} {'good' if report.passed(verdict) else 'BAD'}")
    _print_findings(report, out)
    out.print("the log is good" if report.good else "the log is DAMAGED")


def _print_findings(report: Report, out: Console) -> None:
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


def _fail_on_archive(message: str, *, as_json: bool) -> NoReturn:
    """End as damaged: what lies beside the log to verify it with is itself damaged."""
    if as_json:
        document = {"good": False, "findings": [{"kind": "changed", "message": message}]}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"{message}\nthe log is DAMAGED, or what lies beside it is\n")
    raise typer.Exit(1)
