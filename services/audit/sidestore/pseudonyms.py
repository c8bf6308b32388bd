"""Pseudonyms: who a record is about, under a random key per caller that can be destroyed.

A pseudonym is an HMAC of (tenant, issuer, subject) under the caller's key. With the key, a caller's
records are found by name; without it nobody can tell whose they are, and the log has not changed.
The next call of a forgotten caller draws a new key, and so another pseudonym.

It is a database of sealed rows, each named by a digest that only the vault can compute.
"""

import contextlib
import hmac
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from services.audit.sidestore.vault import KEY_SIZE, Unreadable, Vault

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS callers (
    name BLOB PRIMARY KEY,
    subject BLOB NOT NULL,
    pseudonym TEXT NOT NULL UNIQUE,
    sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_subject ON callers (subject);
"""
_SIZE = 16
_TEXT = b"caller's text"
_MAX_CACHED = 20_000


class Identity(NamedTuple):
    """Who is meant by a principal; roles do not matter."""

    tenant: str
    issuer: str
    subject: str


class Caller:
    """A caller with their key.

    Args:
        identity: who it is.
        key: their key.
    """

    __slots__ = ("_key", "identity", "pseudonym")

    def __init__(self, identity: Identity, key: bytes) -> None:
        """See the class."""
        self.identity = identity
        self._key = key
        named = msgspec.msgpack.encode(("principal", *identity))
        self.pseudonym = hmac.digest(key, named, "sha256")[:_SIZE].hex()

    def hide(self, text: str) -> str:
        """Return what stands for a text that the caller chose, such as their own request id."""
        if not text:
            return ""
        data = text.encode()
        return blake2b(data, digest_size=_SIZE, key=self._key, person=_TEXT).hexdigest()


class Pseudonyms:
    """The callers that are known.

    Args:
        path: the database; made `0600` when it is missing.
        vault: seals the rows.
        readonly: whether to leave the file as it is, which a service may be writing.

    Raises:
        sqlite3.DatabaseError: the file is damaged.
    """

    def __init__(self, path: Path, vault: Vault, *, readonly: bool = False) -> None:
        """See the class."""
        self._vault = vault
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, str, str], Caller] = {}
        if readonly:
            self._database = _reading(path)
            return
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            self._database.executescript(_SCHEMA)
            if self._database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                msg = "the database does not check out"
                raise sqlite3.DatabaseError(msg)
        except sqlite3.Error:
            self._database.close()
            raise

    def cached(self, identity: tuple[str, str, str]) -> Caller | None:
        """Return a caller without looking at the disk; None when that is needed."""
        return self._cache.get(identity)

    def ensure(self, identities: Iterable[Identity]) -> dict[tuple[str, str, str], Caller]:
        """Return callers, and make them known, durably, where they are not.

        A row that cannot be read does not stop a record: the caller gets a new key.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        callers: dict[tuple[str, str, str], Caller] = {}
        with self._lock:
            for identity in dict.fromkeys(identities):
                caller = self._cache.get(identity) or self._stored(identity)
                callers[identity] = caller or self._draw(identity)
                self._remember(callers[identity])
        return callers

    def get(self, identity: Identity) -> Caller | None:
        """Return a caller, if they are known; blocks."""
        with self._lock:
            return self._cache.get(identity) or self._stored(identity)

    def find(self, identity: Identity) -> list[Caller]:
        """Return the callers with this subject; an empty tenant or issuer matches every one."""
        with self._lock:
            rows = self._database.execute(
                "SELECT sealed, name FROM callers WHERE subject = ?", (self._subject(identity),)
            ).fetchall()
        return [
            caller
            for caller in self._opened(rows)
            if identity.tenant in ("", caller.identity.tenant)
            and identity.issuer in ("", caller.identity.issuer)
            and identity.subject == caller.identity.subject
        ]

    def reveal(self, pseudonym: str) -> Identity | None:
        """Return who a pseudonym stands for; None when it is not known, or no longer."""
        with self._lock:
            rows = self._database.execute(
                "SELECT sealed, name FROM callers WHERE pseudonym = ?", (pseudonym,)
            ).fetchall()
        return next((caller.identity for caller in self._opened(rows)), None)

    def forget(self, pseudonym: str) -> bool:
        """Destroy the key behind a pseudonym, durably; say whether there was one.

        Raises:
            sqlite3.Error: the disk refuses.
        """
        with self._lock:
            deleted = self._database.execute(
                "DELETE FROM callers WHERE pseudonym = ?", (pseudonym,)
            ).rowcount
            self._drop(pseudonym)
            # Deleted rows are overwritten, and the journal that still has them is emptied.
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return deleted > 0

    def seal_anew(self) -> int:
        """Seal every row with the newest data key; return how many were unreadable and are gone.

        Raises:
            sqlite3.Error: the disk refuses; nothing has changed.
        """
        with self._lock:
            rows = self._database.execute("SELECT sealed, name FROM callers").fetchall()
            callers = self._opened(rows)
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                self._database.execute("DELETE FROM callers")
                for caller, key in callers.items():
                    self._insert(caller, key)
            self._database.execute("VACUUM")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._cache.clear()
        return len(rows) - len(callers)

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def _stored(self, identity: Identity) -> Caller | None:
        rows = self._database.execute(
            "SELECT sealed, name FROM callers WHERE name = ?", (self._name(identity),)
        ).fetchall()
        return next(iter(self._opened(rows)), None)

    def _draw(self, identity: Identity) -> Caller:
        key = secrets.token_bytes(KEY_SIZE)
        caller = Caller(identity, key)
        self._insert(caller, key)
        return caller

    def _insert(self, caller: Caller, key: bytes) -> None:
        name = self._name(caller.identity)
        sealed = self._vault.seal(msgspec.msgpack.encode((key, *caller.identity)), name)
        self._database.execute(
            "INSERT OR REPLACE INTO callers VALUES (?, ?, ?, ?)",
            (name, self._subject(caller.identity), caller.pseudonym, sealed),
        )

    def _opened(self, rows: Iterable[tuple[bytes, bytes]]) -> dict[Caller, bytes]:
        """Return the callers that can be read, each with its key."""
        callers = {}
        for sealed, name in rows:
            with contextlib.suppress(Unreadable, msgspec.DecodeError):
                opened = msgspec.msgpack.decode(
                    self._vault.open(sealed, name), type=tuple[bytes, str, str, str]
                )
                callers[Caller(Identity(*opened[1:]), opened[0])] = opened[0]
        return callers

    def _remember(self, caller: Caller) -> None:
        while len(self._cache) >= _MAX_CACHED:
            self._cache.pop(next(iter(self._cache)))
        self._cache[caller.identity] = caller

    def _drop(self, pseudonym: str) -> None:
        for identity, caller in list(self._cache.items()):
            if caller.pseudonym == pseudonym:
                self._cache.pop(identity, None)

    def _name(self, identity: Identity) -> bytes:
        return self._vault.digest(msgspec.msgpack.encode(("name", *identity)))

    def _subject(self, identity: Identity) -> bytes:
        return self._vault.digest(msgspec.msgpack.encode(("subject", identity.subject)))


def _reading(path: Path) -> sqlite3.Connection:
    """Open a database to read it, so that no file comes to be beside it.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, check_same_thread=False)
