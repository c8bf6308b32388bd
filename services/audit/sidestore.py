"""The side store: the random key of each record's commitments, outside the log and erasable.

Without its key a commitment says nothing about its text, so erasing the key erases the content
while the log stays provable. The log is verified without this store.
"""

import os
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from services.audit.ports import Entry

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS commitment_keys (
    record INTEGER PRIMARY KEY,
    commitment_key BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER);
INSERT OR IGNORE INTO progress VALUES (1, 0);
"""


class SideStore:
    """Keeps commitment keys by index of their record.

    Args:
        path: the database; made `0600` when it is missing.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.executescript(_SCHEMA)
        (self._size,) = self._database.execute("SELECT size FROM progress").fetchone()

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        return int(self._size)

    def apply(self, first: int, entries: Sequence[Entry]) -> None:
        """Take the keys of records from an index on; records it has taken it leaves alone.

        A key that was erased therefore does not come back when records are replayed.
        """
        end = first + len(entries)
        if end <= self._size:
            return
        rows = [
            (index, entry.commitment_key)
            for index, entry in enumerate(entries, first)
            if index >= self._size and entry.commitment_key
        ]
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO commitment_keys VALUES (?, ?)", rows)
            self._database.execute("UPDATE progress SET size = ?", (end,))
        self._size = end

    def commitment_key(self, index: int) -> bytes | None:
        """Return the key of a record; None when it has none, or it was erased."""
        with self._lock:
            row = self._database.execute(
                "SELECT commitment_key FROM commitment_keys WHERE record = ?", (index,)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def erase(self, index: int) -> bool:
        """Erase the key of a record for good; say whether there was one."""
        with self._lock:
            cursor = self._database.execute(
                "DELETE FROM commitment_keys WHERE record = ?", (index,)
            )
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return cursor.rowcount > 0

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()
