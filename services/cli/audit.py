"""`weaver audit`: verify a log, read it, write and check receipts. No service is needed.

Exit codes: 0 good, 1 damaged or not proven, 2 called in a wrong way.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, NoReturn, get_args

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from services.audit.archive import ArchiveError
from services.audit.index import Filter
from services.audit.layout import Layout
from services.audit.note import NoteError
from services.audit.offline import OfflineError, OfflineLog, published_before
from services.audit.receipt import parse_receipt, verify_receipt
from services.audit.record import EventType, Record, decode
from services.audit.report import Report
from services.audit.signatures import load_keys
from services.audit.verifier import Progress as ProgressCallback
from services.audit.verifier import verify

app = typer.Typer(name="audit", help="Verify and read the audit log.", no_args_is_help=True)

_PROGRESS_AFTER_S = 2.0
_SHOWN = 20

Directory = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]", help="The log's directory. Default: WEAVER_AUDIT_PATH, or this machine's."
    ),
]
KeysFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        help="Who may sign: a key archive, a PEM public key or verifier keys. Default: DIR.keys.",
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]
LogOption = Annotated[
    Path | None,
    typer.Option("--log", help="The log's directory. Default: as for `weaver audit verify`."),
]


@app.command("verify")
def verify_command(
    directory: Directory = None,
    keys: KeysFile = None,
    as_json: AsJSON = False,  # noqa: FBT002 - a flag
) -> None:
    """Verify a log: nothing changed, nothing missing, signed by the right keys."""
    log = _directory(directory)
    keys_file = keys or Layout(log).keys
    try:
        trusted = load_keys(keys_file)
    except ArchiveError as error:
        if keys is not None or not keys_file.exists():
            _usage(str(error))
        _fail_on_archive(str(error), as_json=as_json)
    try:
        history = published_before(log)
    except NoteError as error:
        _fail_on_archive(str(error), as_json=as_json)
    with _progress(enabled=not as_json) as progress:
        report = verify(log, trusted, history=history, progress=progress)
    if as_json:
        sys.stdout.write(json.dumps({**report.document(), "keys": str(keys_file)}) + "\n")
    else:
        _print_report(report, log, keys_file, own=keys is None)
    raise typer.Exit(0 if report.good else 1)


@app.command("list")
def list_command(  # noqa: PLR0913, PLR0917 - each is an option
    log: LogOption = None,
    request_id: Annotated[str, typer.Option(help="Records of this request.")] = "",
    tenant: Annotated[str, typer.Option(help="Records of this tenant.")] = "",
    subject: Annotated[str, typer.Option(help="Records of this subject.")] = "",
    event_type: Annotated[
        list[str] | None, typer.Option("--type", help="Records of this type; repeatable.")
    ] = None,
    since: Annotated[str, typer.Option(help="At or after this time (RFC 3339).")] = "",
    until: Annotated[str, typer.Option(help="Before this time (RFC 3339).")] = "",
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 20,
    ascending: Annotated[bool, typer.Option("--ascending", help="Oldest first.")] = False,  # noqa: FBT002
    as_json: AsJSON = False,  # noqa: FBT002
) -> None:
    """List records, newest first."""
    for name in event_type or ():
        if name not in get_args(EventType):
            _usage(f"--type: {name!r} is none of {', '.join(get_args(EventType))}")
    wanted = Filter(
        tenant=tenant,
        subject=subject,
        request_id=request_id,
        types=tuple(event_type or ()),
        start_time=_time("--since", since),
        end_time=_time("--until", until),
    )
    with _reading(log) as offline:
        found = islice(offline.find(wanted, ascending=ascending), limit)
        if as_json:
            for index, entry in found:
                sys.stdout.write(_line(index, entry) + "\n")
            return
        table = Table("index", "time", "type", "request", "principal", "model", "outcome", box=None)
        for index, entry in found:
            table.add_row(*_row(index, decode(entry)))
        _console().print(table)


@app.command("show")
def show_command(
    index: Annotated[int, typer.Argument(min=0, help="The record's index.")],
    log: LogOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="The very bytes that are hashed.")] = False,  # noqa: FBT002
) -> None:
    """Show one record."""
    with _reading(log) as offline:
        entry = offline.entry(index)
    if raw:
        sys.stdout.buffer.write(entry)
    else:
        sys.stdout.write(msgspec.json.format(entry, indent=2).decode() + "\n")


@app.command("receipt")
def receipt_command(
    index: Annotated[int, typer.Argument(min=0, help="The record's index.")],
    log: LogOption = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Write the record to FILE and the proof to FILE.tlog-proof."),
    ] = None,
) -> None:
    """Write a record and the proof that a signed checkpoint covers it."""
    with _reading(log) as offline:
        entry, receipt = offline.entry(index), offline.receipt(index)
    record = output or Path(f"record-{index}.json")
    proof = record.with_name(f"{record.name}.tlog-proof")
    try:
        record.write_bytes(entry)
        proof.write_text(str(receipt))
    except OSError as error:
        _usage(f"cannot write {error.filename}: {error.strerror}")
    sys.stdout.write(f"{record}\n{proof}\n")


@app.command("verify-receipt")
def verify_receipt_command(
    record: Annotated[Path, typer.Argument(help="The record's file.")],
    key: Annotated[
        Path, typer.Option("--key", help="A PEM public key, verifier keys or a key archive.")
    ],
    proof: Annotated[
        Path | None, typer.Option(help="The proof. Default: the record's name and .tlog-proof.")
    ] = None,
) -> None:
    """Check a receipt with nothing but a public key."""
    proof = proof or record.with_name(f"{record.name}.tlog-proof")
    try:
        entry, text, trusted = record.read_bytes(), proof.read_bytes(), load_keys(key)
    except (OSError, ArchiveError) as error:
        _usage(str(error))
    try:
        receipt = parse_receipt(text.decode(errors="replace"))
        checkpoint = receipt.checkpoint.checkpoint
        signers = verify_receipt(receipt, entry, trusted.named(checkpoint.origin))
    except NoteError as error:
        sys.stderr.write(f"weaver: not proven: {error}\n")
        raise typer.Exit(1) from None
    names = " and ".join(signer.algorithm for signer in signers)
    sys.stdout.write(
        f"proven: record {receipt.index} of {checkpoint.origin}, in the tree of "
        f"{checkpoint.size} records, signed with {names}\n"
    )


def default_log() -> Path:
    """Return where this machine's log lies."""
    path = os.environ.get("WEAVER_AUDIT_PATH")
    state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
    return Path(path) if path else state / "audit" / "log"


def _print_report(report: Report, log: Path, keys_file: Path, *, own: bool) -> None:
    console = _console()
    advice = " (beside the log: use --keys with a copy of your own)" if own else ""
    console.print(f"log          {log} ({report.origin or 'unknown'})")
    console.print(f"keys         {keys_file}{advice}")
    console.print(f"records      {report.good_records} of {report.size} good")
    console.print(f"checkpoints  {report.checkpoints} good")
    if report.beyond:
        console.print(f"unsigned     {report.beyond} records behind the checkpoint")
    for line in report.signatures:
        console.print(f"signature    {line.algorithm} {line.fingerprint[:16]} {line.state}")
    for verdict in ("integrity", "completeness", "signatures"):
        console.print(f"{verdict:<12} {'good' if report.passed(verdict) else 'BAD'}")
    for index, name in report.interrupted[:_SHOWN]:
        console.print(f"interrupted: record {index}, intent {name}, has no outcome")
    if report.interrupted_count > _SHOWN:
        console.print(f"interrupted: and {report.interrupted_count - _SHOWN} more")
    for finding in report.findings[:_SHOWN]:
        console.print(f"{finding.verdict}: {finding.kind}: {finding.message}")
    if len(report.findings) > _SHOWN:
        console.print(f"and {len(report.findings) - _SHOWN} more findings; --json lists them")
    if report.first_bad_index is not None:
        console.print(f"first bad record: {report.first_bad_index}")
    console.print("the log is good" if report.good else "the log is DAMAGED")


def _fail_on_archive(message: str, *, as_json: bool) -> NoReturn:
    """End as damaged: what lies beside the log to verify it with is itself damaged."""
    if as_json:
        document = {"good": False, "findings": [{"kind": "changed", "message": message}]}
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write(f"{message}\nthe log is DAMAGED, or what lies beside it is\n")
    raise typer.Exit(1)


@contextmanager
def _progress(*, enabled: bool) -> Iterator[ProgressCallback]:
    """Show a bar on a terminal once a verification takes long."""
    if not enabled or not sys.stderr.isatty():
        yield lambda _done, _size: None
        return
    started = time.monotonic()
    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("verifying", visible=False)

        def show(done: int, size: int) -> None:
            if time.monotonic() - started > _PROGRESS_AFTER_S:
                bar.update(task, completed=done, total=size, visible=True)

        yield show


@contextmanager
def _reading(log: Path | None) -> Iterator[OfflineLog]:
    try:
        yield OfflineLog(_directory(log))
    except OfflineError as error:
        _usage(str(error))


def _directory(given: Path | None) -> Path:
    log = given or default_log()
    if not log.is_dir():
        _usage(f"there is no log in {log}")
    return log


def _time(option: str, text: str) -> str:
    """Return a time as records write it."""
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _usage(f"{option}: {text!r} is no RFC 3339 time")
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _row(index: int, record: Record) -> tuple[str, ...]:
    who = record.principal
    principal = f"{who.tenant}/{who.subject}" if who else ""
    outcome = record.outcome or record.reason
    model = record.answered_model or record.requested_model
    return str(index), record.event_time, record.type, record.request_id, principal, model, outcome


def _line(index: int, entry: bytes) -> str:
    return f'{{"index":{index},"record":{entry.decode()}}}'


def _console() -> Console:
    width = None if sys.stdout.isatty() else 10_000
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)


def _usage(message: str) -> NoReturn:
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(2)
