"""The archive of public keys: every key that ever signed, and when.

It lies beside the log, not in it, and it is public. Who verifies with it trusts whoever can write
it; an auditor keeps a copy of their own.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from services.audit.note import NoteError, VerifierKey, parse_verifier_key
from services.audit.tiles import sync_directory


class ArchiveError(Exception):
    """The archive cannot be read; the message is for people."""


class ArchivedKey(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A public key and its validity, in RFC 3339 times, and the records that announce it."""

    verifier_key: str
    algorithm: str
    fingerprint: str
    public_key_pem: str
    start_time: str
    end_time: str | None = None
    start_record: int | None = None
    end_record: int | None = None

    @property
    def key(self) -> VerifierKey:
        """The key itself."""
        return parse_verifier_key(self.verifier_key)


class _Archive(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    origin: str
    keys: list[ArchivedKey]


class KeyArchive:
    """The keys of one log, oldest first.

    Args:
        origin: the log's name.
        keys: what is known.
    """

    def __init__(self, origin: str, keys: Iterable[ArchivedKey] = ()) -> None:
        """See the class."""
        self.origin = origin
        self.keys = list(keys)

    @property
    def verifiers(self) -> list[VerifierKey]:
        """Every key that ever signed."""
        return [archived.key for archived in self.keys]

    @property
    def active(self) -> list[ArchivedKey]:
        """The keys that sign now."""
        return [archived for archived in self.keys if archived.end_time is None]

    def use(self, current: Sequence[VerifierKey], now: float) -> bool:
        """Take note of who signs from now on; say whether that changed anything."""
        time = rfc3339(now)
        wanted = {str(key): key for key in current}
        changed = False
        for archived in self.active:
            if wanted.pop(archived.verifier_key, None) is None:
                archived.end_time = time
                changed = True
        self.keys.extend(_archived(key, time) for key in wanted.values())
        return changed or bool(wanted)

    def save(self, path: Path) -> None:
        """Write the archive, atomically and durably.

        Raises:
            OSError: the disk refuses.
        """
        document = _Archive(self.origin, self.keys)
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        temporary = path.with_name(f"{path.name}.new")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)


def load_archive(path: Path) -> KeyArchive:
    """Return the archive in a file.

    Raises:
        ArchiveError: it is not there, or damaged.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=_Archive)
        for archived in document.keys:
            _check(archived)
    except FileNotFoundError:
        msg = f"{path}: there is no key archive"
        raise ArchiveError(msg) from None
    except (OSError, NoteError, ValueError) as error:
        msg = f"{path}: {error}"
        raise ArchiveError(msg) from None
    return KeyArchive(document.origin, document.keys)


def rfc3339(timestamp: float) -> str:
    """Return a Unix time as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _archived(key: VerifierKey, time: str) -> ArchivedKey:
    return ArchivedKey(str(key), key.algorithm, key.fingerprint, key.pem, time)


def _check(archived: ArchivedKey) -> None:
    """Refuse an entry whose parts do not belong together."""
    expected = _archived(archived.key, archived.start_time)
    if (archived.algorithm, archived.fingerprint, archived.public_key_pem) != (
        expected.algorithm,
        expected.fingerprint,
        expected.public_key_pem,
    ):
        msg = f"the parts of the key {archived.fingerprint} do not belong together"
        raise ValueError(msg)
    for time in filter(None, (archived.start_time, archived.end_time)):
        datetime.fromisoformat(time)
