"""`weaver backup schedule`: archive and back up what lies beside the log, for as long as it lives.

It is for the pod of the audit service, whose volume no other pod may mount; elsewhere cron does as
well. What is due is read from what stands beside the log, so that a restart repeats nothing. A job
that fails is tried again, and its age shows in the metrics.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.audit.archives.archived import read_archived
from services.audit.archives.targets import TargetError
from services.audit.layout import Layout
from services.cli.audit.options import default_log
from services.cli.backup.options import LogOption, To, shelf
from services.cli.backup.standing import remember_beside
from services.common.backups import BESIDE_THE_LOG, DRILL, read

app = typer.Typer()

_HOUR_S = 3_600.0
_AGAIN_S = 300.0
_LONGEST_S = 6 * _HOUR_S

ArchiveTo = Annotated[
    str, typer.Option("--archive-to", envvar="WEAVER_ARCHIVE_TARGET", help="The log's archive.")
]
ArchiveHours = Annotated[
    float, typer.Option("--archive-every", min=0.001, help="Hours between two archives.")
]
Hours = Annotated[float, typer.Option("--every", min=0.001, help="Hours between two backups.")]


@app.command("schedule")
def schedule_command(
    to: To,
    archive_to: ArchiveTo,
    log: LogOption = None,
    archive_every: ArchiveHours = 1.0,
    every: Hours = 24.0,
) -> None:
    """Archive the log, and back up keys and side store, whenever they are due, until SIGTERM.

    For whom to seal is read from WEAVER_BACKUP_RECIPIENTS, as by the commands themselves.
    """
    layout = Layout(log or default_log())
    place = ["--log", str(layout.log)]
    jobs = {
        "archive": (archive_every, ["audit", "archive", "--to", archive_to, *place]),
        "keys": (every, ["backup", "keys", "--to", to, "--prune", *place]),
        "side-store": (every, ["backup", "side-store", "--to", to, "--prune", *place]),
    }
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    not_before = dict.fromkeys(jobs, 0.0)
    while not ended.is_set():
        waiting = _AGAIN_S
        for name, (hours, words) in jobs.items():
            due = max(last_success(layout, name) + hours * _HOUR_S, not_before[name])
            if due <= time.time() and not ended.is_set():
                if not run(words, ended.is_set):
                    not_before[name] = time.time() + _AGAIN_S
                due = time.time() + min(hours * _HOUR_S, _AGAIN_S)
            waiting = min(waiting, due - time.time())
        _pass_the_drill_on(to, layout)
        ended.wait(max(waiting, 0.1))


def _pass_the_drill_on(to: str, layout: Layout) -> None:
    """Write beside the log when a drill succeeded that ran where the log is not."""
    backups = shelf("--to", to)
    try:
        found = backups.last_drill()
    except TargetError:
        return
    if found is not None and found.time > last_success(layout, DRILL):
        remember_beside(layout.log, DRILL, datetime.fromtimestamp(found.time, UTC), 0)


def last_success(layout: Layout, name: str) -> float:
    """Return when a job last succeeded, in Unix seconds; 0 for never."""
    if name == "archive":
        found = read_archived(layout)
        return 0.0 if found is None else datetime.fromisoformat(found.time).timestamp()
    try:
        known = read((layout.private / BESIDE_THE_LOG).read_bytes())
    except OSError:
        return 0.0
    return known[name].time if name in known else 0.0


def run(words: list[str], ended: Callable[[], bool]) -> bool:
    """Run a job as a process of its own; say whether it succeeded. It ends when we are to end."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "services.cli", *words],
        stdin=subprocess.DEVNULL,
        cwd=Path.cwd(),
    )
    began = time.monotonic()
    while process.poll() is None:
        if ended() or time.monotonic() - began > _LONGEST_S:
            process.terminate()
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    return process.returncode == 0
