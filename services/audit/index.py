"""The index: finds records by request, principal, type and time.

It follows the log and can be made anew from it at any time; a damaged index is thrown away. Nobody
who verifies the log trusts it, and readers get the entry from the log itself.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec

from services.audit.merkle import TILE_WIDTH
from services.audit.ports import Entry
from services.audit.record import Principal, Summary, summarise

_VERSION = 2
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS principals (
    number INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL, issuer TEXT NOT NULL, subject TEXT NOT NULL,
    UNIQUE (tenant, issuer, subject)
);
CREATE TABLE IF NOT EXISTS records (
    record INTEGER PRIMARY KEY,
    request_id TEXT, principal INTEGER, type TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_request ON records (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_principal ON records (principal) WHERE principal IS NOT NULL;
CREATE INDEX IF NOT EXISTS by_type ON records (type);
CREATE TABLE IF NOT EXISTS spans (
    bundle INTEGER PRIMARY KEY, first TEXT NOT NULL, last TEXT NOT NULL
);
"""
_INSERT = """
INSERT INTO records
SELECT value->>0, value->>1, value->>2, value->>3, value->>4 FROM json_each(?)
"""
_SPAN = """
INSERT INTO spans VALUES (?, ?, ?) ON CONFLICT (bundle)
DO UPDATE SET first = min(first, excluded.first), last = max(last, excluded.last)
"""
_CHUNK = 256
_MAX_KNOWN_PRINCIPALS = 10_000
_AFTER_ANY_TIME = "\x7f"


@dataclass(frozen=True)
class Filter:
    """Which records; what is empty matches everything. Times are as records write them.

    `pseudonyms` match beside the subject: a plain subject never passes for one.
    """

    tenant: str = ""
    issuer: str = ""
    subject: str = ""
    request_id: str = ""
    types: tuple[str, ...] = ()
    start_time: str = ""
    end_time: str = ""
    pseudonyms: tuple[str, ...] = ()


class Index:
    """A database of what records are about.

    Args:
        path: the database; made `0600` when it is missing, and anew when it is damaged.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._path = path
        self._lock = threading.Lock()
        self._principals: dict[tuple[str, str, str], int] = {}
        try:
            self._database = self._open()
        except sqlite3.DatabaseError:
            self._database = self._make_anew()
        self._size = self._count()

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        return self._size

    def apply(self, first: int, entries: Sequence[Entry]) -> None:
        """Take records from an index on; records it has taken it leaves alone."""
        self.add(first, [entry.data for entry in entries])

    def add(self, first: int, entries: Sequence[bytes]) -> None:
        """Take entries from an index on; those it has taken it leaves alone.

        Rows go in many at a time through one statement, since a statement for each would give up
        the interpreter each time and wait for it again.
        """
        for start in range(max(0, self._size - first), len(entries), _CHUNK):
            self._add_rows(first + start, entries[start : start + _CHUNK])

    def _add_rows(self, first: int, entries: Sequence[bytes]) -> None:
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                rows = [self._row(i, summarise(entry)) for i, entry in enumerate(entries, first)]
                self._database.execute(_INSERT, (msgspec.json.encode(rows).decode(),))
                for bundle, group in groupby(rows, lambda row: row[0] // TILE_WIDTH):
                    times = [row[4] for row in group]
                    self._database.execute(_SPAN, (bundle, min(times), max(times)))
        except (sqlite3.Error, ValueError):
            self._principals.clear()  # Their numbers were taken back.
            raise
        self._size = first + len(entries)

    def find(self, wanted: Filter, *, limit: int, after: int | None, ascending: bool) -> list[int]:
        """Return the indexes of records that match, in order.

        Args:
            wanted: which.
            limit: how many at most.
            after: go on behind this index; None for the beginning.
            ascending: oldest first instead of newest first.
        """
        conditions, values = _conditions(wanted)
        if after is not None:
            conditions.append("record > ?" if ascending else "record < ?")
            values.append(after)
        if wanted.start_time or wanted.end_time:
            first, end = self._range(wanted)
            conditions.append("record >= ? AND record < ?")
            values += [first, end]
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "ASC" if ascending else "DESC"
        query = f"SELECT record FROM records {where} ORDER BY record {order} LIMIT ?"  # noqa: S608 - conditions are ours
        with self._lock:
            rows = self._database.execute(query, [*values, limit]).fetchall()
        return [row[0] for row in rows]

    def _range(self, wanted: Filter) -> tuple[int, int]:
        """Return between which records all of a span of time lie.

        Records come nearly in the order of their times, so that this leaves little to look at,
        and any order is right.
        """
        with self._lock:
            low, high = self._database.execute(
                "SELECT min(bundle), max(bundle) FROM spans WHERE last >= ? AND first < ?",
                (wanted.start_time, wanted.end_time or _AFTER_ANY_TIME),
            ).fetchone()
        return (0, 0) if low is None else (low * TILE_WIDTH, (high + 1) * TILE_WIDTH)

    def forget(self, end: int) -> None:
        """Let go of the records before an index, and of whom they alone were about."""
        with self._lock, self._database:
            self._database.execute("PRAGMA secure_delete = ON")
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("DELETE FROM records WHERE record < ?", (end,))
            self._database.execute("DELETE FROM spans WHERE bundle < ?", (end // TILE_WIDTH,))
            self._database.execute(
                "DELETE FROM principals WHERE number NOT IN "
                "(SELECT principal FROM records WHERE principal IS NOT NULL)"
            )
            self._principals.clear()

    def reset(self) -> None:
        """Forget everything, so that it can be made anew from the log."""
        with self._lock:
            self._database.close()
            self._principals.clear()
            self._database = self._make_anew()
            self._size = 0

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _row(self, index: int, summary: Summary) -> tuple[int, str | None, int | None, str, str]:
        principal = None if summary.principal is None else self._number(summary.principal)
        return index, summary.request_id or None, principal, summary.type, summary.event_time

    def _number(self, principal: Principal) -> int:
        subject = _stored(principal.subject, pseudonym=principal.pseudonym)
        key = (principal.tenant, principal.issuer, subject)
        number = self._principals.get(key)
        if number is None:
            self._database.execute(
                "INSERT OR IGNORE INTO principals (tenant, issuer, subject) VALUES (?, ?, ?)", key
            )
            (number,) = self._database.execute(
                "SELECT number FROM principals WHERE (tenant, issuer, subject) = (?, ?, ?)", key
            ).fetchone()
            if len(self._principals) >= _MAX_KNOWN_PRINCIPALS:
                self._principals.clear()
            self._principals[key] = int(number)
        return int(number)

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                msg = "another version's index"
                raise sqlite3.DatabaseError(msg)
            database.executescript(_SCHEMA)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _make_anew(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).unlink()
        return self._open()

    def _count(self) -> int:
        (last,) = self._database.execute("SELECT max(record) FROM records").fetchone()
        return 0 if last is None else int(last) + 1


def _conditions(wanted: Filter) -> tuple[list[str], list[str | int]]:
    conditions: list[str] = []
    values: list[str | int] = []
    who: list[str] = []
    for column, value in (("tenant", wanted.tenant), ("issuer", wanted.issuer)):
        if value:
            who.append(f"{column} = ?")
            values.append(value)
    subjects = [_stored(wanted.subject, pseudonym=False)] if wanted.subject else []
    subjects += [_stored(pseudonym, pseudonym=True) for pseudonym in wanted.pseudonyms]
    if subjects:
        who.append(f"subject IN ({', '.join('?' * len(subjects))})")
        values.extend(subjects)
    if who:
        match = " AND ".join(who)
        conditions.append(f"principal IN (SELECT number FROM principals WHERE {match})")  # noqa: S608 - columns are ours
    if wanted.request_id:
        conditions.append("request_id = ?")
        values.append(wanted.request_id)
    if wanted.types:
        conditions.append(f"type IN ({', '.join('?' * len(wanted.types))})")
        values.extend(wanted.types)
    if wanted.start_time:
        conditions.append("time >= ?")
        values.append(wanted.start_time)
    if wanted.end_time:
        conditions.append("time < ?")
        values.append(wanted.end_time)
    return conditions, values


def _stored(subject: str, *, pseudonym: bool) -> str:
    """Return a subject so that no plain one is stored like a pseudonym."""
    if pseudonym:
        return f"\x01p{subject}"
    return f"\x01s{subject}" if subject.startswith("\x01") else subject
