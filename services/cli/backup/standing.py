"""How backups stand: when each last succeeded, written down where a service's metrics read it.

Beside the log for the audit service, in the store for the limiter: there the metrics
`backup_last_success_time_seconds` and `recovery_drill_last_success_time_seconds` come from. Not
being able to write it down spoils no backup; the command says so.
"""

import json
from datetime import datetime
from pathlib import Path

import msgspec

from services.audit.layout import Layout
from services.audit.sidestore.vault import replace_file
from services.cli.backup.snapshot import Session, SnapshotError

FILE = "backups.json"
STORE_KEY = "weaver:backups"
DRILL = "drill"


def remember_beside(log: Path, what: str, now: datetime, size: int) -> bool:
    """Write down beside a log that something succeeded; say whether that could be."""
    layout = Layout(log)
    if not layout.private.is_dir():
        return False
    path = layout.private / FILE
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        found = {}
    known = found if isinstance(found, dict) else {}
    known[what] = {"time": now.timestamp(), "size": size}
    try:
        replace_file(path, json.dumps(known, sort_keys=True).encode() + b"\n")
    except OSError:
        return False
    return True


def remember_in_store(session: Session, what: str, now: datetime, size: int) -> bool:
    """Write down in the store that something succeeded; say whether that could be."""
    entry = msgspec.json.encode({"time": now.timestamp(), "size": size})
    try:
        session.ask("HSET", STORE_KEY, what, entry)
    except SnapshotError:
        return False
    return True
