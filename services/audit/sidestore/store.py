"""The side store: what belongs to records and must be erasable, so it lies outside the log.

It is a directory of its own, sealed by the vault, backed up apart: the keys of commitments, the
keys of pseudonyms, captured texts. The log is verified without it. What is damaged is set aside and
begun anew, since a record must not wait for what only readers need; health says so.
"""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from services.audit.layout import make_directory
from services.audit.sidestore.commitment_keys import CommitmentKeys, DamagedKeys
from services.audit.sidestore.pseudonyms import Pseudonyms
from services.audit.sidestore.texts import Texts
from services.audit.sidestore.vault import Vault, VaultError, WrongKey
from services.common.files import sync_directory

_DAMAGED = ".damaged-"
_Part = TypeVar("_Part")

_log = structlog.get_logger()


class SideStore:
    """Opens the parts of the side store.

    Args:
        directory: where it lies; made `0700` when it is missing.
        origin: the log's name.
        key: the operator's key.
        previous: the operator's key before it, while it is replaced.

    Raises:
        WrongKey: the side store is locked with neither key.
        OSError: the directory cannot be used.
    """

    def __init__(
        self, directory: Path, origin: str, key: bytes, previous: bytes | None = None
    ) -> None:
        """See the class."""
        self._directory = directory
        self.problems: list[str] = []
        make_directory(directory, 0o700)
        for draft in directory.glob("*.new"):
            draft.unlink()
        ring = directory / "keyring"
        try:
            self.vault = Vault(ring, origin, key, previous)
        except WrongKey:
            raise
        except VaultError as error:
            self._set_aside("keyring", error)
            self.vault = Vault(ring, origin, key)
        self.keys = self._part("commitment-keys", lambda path: CommitmentKeys(path, self.vault))
        self.callers = self._part("callers.db", self._open_callers)
        self.texts = self._part("texts.db", Texts)
        sync_directory(directory)
        if self.vault.made and (self.keys.size or self._aside("keyring")):
            self._problem("keyring", "it is missing: what lies here cannot be opened any more")

    def missing(self, first: int, end: int) -> None:
        """Take note that the keys of records are in neither this store nor the write-ahead log."""
        self._problem("commitment-keys", f"the keys of records {first} to {end - 1} are missing")

    def finish_turning(self) -> None:
        """Seal everything with the newest data key, and forget the others.

        Call it once nothing sealed with an old one can arrive any more.

        Raises:
            OSError: the disk refuses; the next start tries again.
        """
        lost = self.keys.seal_anew()
        self.vault.retire()
        _log.info("audit_side_store_sealed_anew", unreadable=lost)

    def close(self) -> None:
        """Close every part."""
        self.keys.close()
        self.callers.close()
        self.texts.close()

    def _open_callers(self, path: Path) -> Pseudonyms:
        callers = Pseudonyms(path, self.vault)
        if self.vault.turning:
            # Their names are digests under the newest key, so they must be found under it.
            callers.seal_anew()
        return callers

    def _part(self, name: str, opening: Callable[[Path], _Part]) -> _Part:
        try:
            return opening(self._directory / name)
        except (DamagedKeys, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.OperationalError):
                # The disk or the permissions, not the content.
                raise OSError(5, str(error), str(self._directory / name)) from None
            self._set_aside(name, error)
            return opening(self._directory / name)

    def _set_aside(self, name: str, error: Exception) -> None:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        for suffix in ("", "-wal", "-shm"):
            path = self._directory / f"{name}{suffix}"
            if path.exists():
                path.rename(path.with_name(f"{name}{_DAMAGED}{now}{suffix}"))
        self._problem(name, f"it is damaged and was set aside: {error}")

    def _aside(self, name: str) -> bool:
        return any(self._directory.glob(f"{name}{_DAMAGED}*"))

    def _problem(self, name: str, what: str) -> None:
        self.problems.append(f"{name}: {what}")
        _log.error(
            "audit_side_store_damaged",
            part=str(self._directory / name),
            problem=what,
            advice="restore the side store from its backup; the log is not affected",
        )
