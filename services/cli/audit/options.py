"""What the commands of `weaver audit` share: their options, and how they speak."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from services.audit.verification.verifier import Progress as ProgressCallback

_PROGRESS_AFTER_S = 2.0

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
PlaceOption = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="DIR|URL",
        help="The log's directory or address. Default: as for `weaver audit verify`.",
    ),
]


def default_log() -> Path:
    """Return where this machine's log lies."""
    path = os.environ.get("WEAVER_AUDIT_PATH")
    state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
    return Path(path) if path else state / "audit" / "log"


@contextmanager
def progress_bar(*, enabled: bool, doing: str = "verifying") -> Iterator[ProgressCallback]:
    """Show a bar on a terminal once what is done takes long."""
    if not enabled or not sys.stderr.isatty():
        yield lambda _done, _size: None
        return
    started = time.monotonic()
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, visible=False)

        def show(done: int, size: int) -> None:
            if time.monotonic() - started > _PROGRESS_AFTER_S:
                bar.update(task, completed=done, total=size, visible=True)

        yield show


def log_directory(given: Path | None) -> Path:
    """Return the log's directory: the one given or the log in it, or this machine's."""
    log = given or default_log()
    if not log.is_dir():
        usage(f"there is no log in {log}")
    within = log / "log"
    is_log = any(Path(log, name).exists() for name in ("checkpoint", "tile"))
    # An archive, or the directory that holds a log and what lies beside it.
    return within if not is_log and (within / "tile").is_dir() else log


def console() -> Console:
    """Return the console for what people read; in a pipe no line is folded."""
    width = None if sys.stdout.isatty() else 10_000
    return Console(width=width, highlight=False, markup=False, soft_wrap=True)


def usage(message: str) -> NoReturn:
    """End because the command was called in a wrong way."""
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(2)
