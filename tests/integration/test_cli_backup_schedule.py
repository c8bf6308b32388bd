"""`weaver backup schedule` on a log with nobody else beside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.audit.archives.targets import DirectoryTarget
from services.audit.layout import Layout
from services.cli.backup import age_keys
from services.cli.backup.options import utc_now
from services.cli.backup.retention import Retention
from services.cli.backup.scheduling import last_success
from services.cli.backup.shelf import Shelf
from services.common.backups import DRILL
from tests.fakes.auditlog import record, running_log


def catches_term(process: int) -> bool:
    """Return whether a process would handle SIGTERM: until then it would be ended by it."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def _grown(state: Path) -> None:
    async with running_log(state) as running:
        await running.append([record(number) for number in range(1, 4)])


def test_what_is_due_is_done_and_not_done_twice(tmp_path: Path) -> None:
    log = tmp_path / "audit" / "log"
    asyncio.run(_grown(tmp_path))
    _, recipient = age_keys.generate()
    shelf = Shelf(DirectoryTarget(tmp_path / "backups"))
    shelf.note_drill(utc_now())
    environment = {
        "PATH": os.environ["PATH"],
        "WEAVER_STATE_DIR": str(tmp_path),
        "WEAVER_BACKUP_RECIPIENTS": recipient,
    }
    keys = [sys.executable, "-m", "services.cli", "keys", "generate", "--bits", "2048"]
    subprocess.run(keys, env=environment, check=True, capture_output=True, timeout=60)
    layout = Layout(log)
    command = [sys.executable, "-m", "services.cli", "backup", "schedule", "--log", str(log)]
    command += ["--to", f"file://{tmp_path}/backups", "--archive-to", f"file://{tmp_path}/archive"]
    for _ in range(2):  # The second time nothing is due.
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
        end = time.monotonic() + 60
        while not (catches_term(process.pid) and last_success(layout, DRILL)):
            assert time.monotonic() < end, (tmp_path / "said").read_text()
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert len(shelf.stamps("keys")) == 1
    assert json.loads((tmp_path / "archive" / "archive.json").read_bytes())["size"] >= 3
    assert shelf.prune("keys", Retention(), utc_now(), dry_run=True)[1] == []
