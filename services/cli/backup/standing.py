"""How backups stand: when each last succeeded, written down where a service's metrics read it.

Beside the log for the audit service, in the store for the limiter: there the metrics
`backup_last_success_time_seconds` and `recovery_drill_last_success_time_seconds` come from. Not
being able to write it down spoils no backup; the command says so.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from services.audit.layout import Layout
from services.cli.backup.snapshot import Session, SnapshotError
from services.common.backups import BESIDE_THE_LOG, IN_THE_STORE, Standing, read
from services.common.files import replace_file


def remember_beside(log: Path, what: str, now: datetime, size: int) -> bool:
    """Write down beside a log that something succeeded; say whether that could be."""
    layout = Layout(log)
    if not layout.private.is_dir():
        return False
    path = layout.private / BESIDE_THE_LOG
    try:
        found = read(path.read_bytes()) if path.exists() else {}
        found[what] = Standing(now.timestamp(), size)
        replace_file(path, msgspec.json.encode(found) + b"\n")
    except OSError:
        return False
    return True


def remember_in_store(session: Session, what: str, now: datetime, size: int) -> bool:
    """Write down in the store that something succeeded; say whether that could be."""
    entry = msgspec.json.encode(Standing(now.timestamp(), size))
    try:
        session.ask("HSET", IN_THE_STORE, what, entry)
    except SnapshotError:
        return False
    return True
