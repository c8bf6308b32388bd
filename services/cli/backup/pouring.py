"""Pours a snapshot into a store that runs: no volume is touched, and replicas follow.

Each key is taken over as the store itself writes it, with the time at which it expires. A key that
is there already is newer, and stays, unless it is to be replaced.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from services.cli.backup.snapshot import Session

_AT_ONCE = "512"
_DATABASES = 16


class Poured(NamedTuple):
    """What became of the keys of a snapshot.

    Attributes:
        restored: they are in the store now.
        kept: they were there, and stayed as they were.
    """

    restored: int
    kept: int


def pour(
    source: Session, store: Session, *, replace: bool, progress: Callable[[int], None]
) -> Poured:
    """Copy every key of one store into another.

    Raises:
        SnapshotError: one of them refuses, or does not answer.
    """
    restored = kept = 0
    for database in range(_DATABASES):
        if not _select(source, store, database):
            continue
        for key in _keys(source):
            dumped = source.ask_raw("DUMP", key)
            if not isinstance(dumped, bytes):
                continue  # It expired just now.
            expires = max(int(str(source.ask("PEXPIRETIME", key))), 0)
            words: list[str | bytes] = ["RESTORE", key, str(expires), dumped, "ABSTTL"]
            if store.try_ask(*words, *(["REPLACE"] if replace else []), unless="BUSYKEY"):
                restored += 1
            else:
                kept += 1
            progress(restored + kept)
    return Poured(restored, kept)


def _select(source: Session, store: Session, database: int) -> bool:
    """Turn both to a database; say whether there is anything in it."""
    source.ask("SELECT", str(database))
    if not source.ask("DBSIZE"):
        return False
    store.ask("SELECT", str(database))
    return True


def _keys(source: Session) -> Iterator[bytes]:
    cursor = b"0"
    while True:
        cursor, found = source.scan(cursor, _AT_ONCE)
        yield from found
        if cursor == b"0":
            return
