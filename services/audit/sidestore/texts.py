"""Captured texts: prompts and answers beside the log, sealed under their records' keys.

What is stored here was sealed by whoever captured it, under a key that is derived from the
record's commitment key. So the erasure of that key erases the texts, in every copy; the rows are
deleted too.
"""

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS texts (
    record INTEGER, kind TEXT, size INTEGER NOT NULL, truncated INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (record, kind)
);
"""
_AT_ONCE = 500


class CapturedText(NamedTuple):
    """A text as it is stored.

    Attributes:
        record: its index.
        kind: which text, as the record's commitments name it.
        size: of the whole text, in bytes.
        truncated: whether only its beginning is here.
        sealed: the text, sealed.
    """

    record: int
    kind: str
    size: int
    truncated: bool
    sealed: bytes


class Texts:
    """Keeps captured texts by record.

    Args:
        path: the database; made `0600` when it is missing.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.executescript(_SCHEMA)
            self._database.execute("SELECT max(record) FROM texts").fetchone()
        except sqlite3.Error:
            self._database.close()
            raise

    def put(self, texts: Sequence[CapturedText]) -> None:
        """Keep texts, durably; one that is there already stays.

        Raises:
            sqlite3.Error: the disk refuses; none is kept.
        """
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT OR IGNORE INTO texts (record, kind, size, truncated, sealed) "
                "VALUES (?, ?, ?, ?, ?)",
                texts,
            )

    def of(self, index: int) -> list[CapturedText]:
        """Return the texts of a record, by kind.

        Raises:
            sqlite3.Error: the database cannot be read.
        """
        with self._lock:
            rows = self._database.execute(
                "SELECT record, kind, size, truncated, sealed FROM texts WHERE record = ? "
                "ORDER BY kind",
                (index,),
            ).fetchall()
        return [CapturedText(row[0], row[1], row[2], bool(row[3]), row[4]) for row in rows]

    def erase(self, indexes: Iterable[int]) -> None:
        """Delete the texts of records; deleted rows are overwritten.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        wanted = list(indexes)
        with self._lock:
            for start in range(0, len(wanted), _AT_ONCE):
                rows = [(index,) for index in wanted[start : start + _AT_ONCE]]
                with self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    self._database.executemany("DELETE FROM texts WHERE record = ?", rows)
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()
