"""The archive of public keys: every key that ever signed, and when.

It lies beside the log, not in it, and it is public. Who verifies with it trusts whoever can write
it; an auditor keeps a copy of their own.

A key is in force from the size of the log at which it began to sign to the size at which it ended;
sizes need no clock. After its end it is *accepted* for a grace period: who still holds it alone may
follow its endorsement to the key that replaced it. After that it vouches for the past alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from services.audit.keys.provenance import NOTHING_STATED, Provenance
from services.audit.note import Algorithm, NoteError, VerifierKey, parse_verifier_key
from services.audit.verification.inventory import read_regular
from services.common.files import replace_file

DAY_S = 86_400
GRACE_DAYS = 30
ROTATE_DAYS = 90
WARN_DAYS = 80
MAX_ARCHIVE_SIZE = 16 * 1024 * 1024

State = Literal["active", "grace", "retired"]


class ArchiveError(Exception):
    """The archive cannot be read; the message is for people."""


class ArchivedKey(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A public key and its validity.

    Attributes:
        verifier_key: the key, as C2SP signed-note spells it.
        algorithm: `RSA` or `Ed25519`.
        fingerprint: SHA-256 of its SubjectPublicKeyInfo.
        public_key_pem: the key in PEM.
        start_time: when it began to sign, in RFC 3339; so are the other times.
        end_time: when it was retired; None while it signs.
        start_record: the record that announces it.
        end_record: the record that retires it.
        start_size: the size of the log when it began; it signs no smaller checkpoint.
        end_size: the size of the log when it ended; it signs no larger checkpoint.
        accepted_until: the end of its grace period.
        environment: where it was first used.
        replaces: the fingerprint of the key that it took over from.
        endorsement: a checkpoint over its first record that the key before it signed as well.
        provenance: what was stated of where it comes from.
    """

    verifier_key: str
    algorithm: Algorithm
    fingerprint: str
    public_key_pem: str
    start_time: str
    end_time: str | None = None
    start_record: int | None = None
    end_record: int | None = None
    start_size: int | None = None
    end_size: int | None = None
    accepted_until: str | None = None
    environment: str = ""
    replaces: str = ""
    endorsement: str = ""
    provenance: Provenance | None = None

    @property
    def key(self) -> VerifierKey:
        """The key itself."""
        return parse_verifier_key(self.verifier_key)

    @property
    def validity_json(self) -> bytes:
        """The entry as the archive's file has it, without who made the key and why."""
        return msgspec.json.encode(msgspec.structs.replace(self, provenance=None))

    def age_days(self, now: float) -> float:
        """Return for how many days it has been signing, or did."""
        end = now if self.end_time is None else _unix(self.end_time)
        return max(0.0, end - _unix(self.start_time)) / DAY_S

    def state(self, now: float) -> State:
        """Say whether it signs, is still accepted, or vouches for the past alone."""
        if self.end_time is None:
            return "active"
        return "grace" if now <= _unix(self.accepted_until or self.end_time) else "retired"

    @property
    def validity(self) -> str:
        """In words for people, when and where it was in force."""
        text = f"from {self.start_time}, size {self.start_size or 0}"
        if self.end_time is None:
            return f"{text} on"
        text += f", to {self.end_time}"
        if self.end_size is not None:
            text += f", size {self.end_size}"
        return f"{text}, accepted until {self.accepted_until or self.end_time}"

    def may_sign(self, size: int) -> bool:
        """Say whether a checkpoint of this size may carry its signature."""
        above = self.start_size is None or size >= self.start_size
        return above and (self.end_size is None or size <= self.end_size)

    def in_force(self, size: int) -> bool:
        """Say whether it was to sign a checkpoint of this size.

        The checkpoint at its very start was signed before it came, unless the log is new.
        """
        if self.end_time is not None and self.end_size is None and self.start_size is None:
            return False  # It ended, and nobody knows where.
        return self.may_sign(size) and (not self.start_size or size > self.start_size)


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
        """Every key that ever signed, once."""
        return list({archived.verifier_key: archived.key for archived in self.keys}.values())

    @property
    def active(self) -> list[ArchivedKey]:
        """The keys that sign now."""
        return [archived for archived in self.keys if archived.end_time is None]

    def terms(self, fingerprint: str) -> list[ArchivedKey]:
        """Return each term of a key, oldest first: a key that was retired may have come back."""
        return [archived for archived in self.keys if archived.fingerprint == fingerprint]

    def use(  # noqa: PLR0913 - what a term of a key says
        self,
        current: Sequence[VerifierKey],
        now: float,
        *,
        size: int | None = None,
        grace_s: float = GRACE_DAYS * DAY_S,
        environment: str = "",
        provenance: Mapping[str, Provenance] | None = None,
    ) -> bool:
        """Take note of who signs from now on; say whether that changed anything.

        Args:
            current: the keys that sign.
            now: the time.
            size: the log's size.
            grace_s: for how long those that do not sign any more are accepted.
            environment: where this is.
            provenance: what is stated of the keys, by fingerprint.
        """
        wanted = {str(key): key for key in current}
        ended: dict[Algorithm, str] = {}
        for archived in self.active:
            if wanted.pop(archived.verifier_key, None) is None:
                end = max(now, _unix(archived.start_time))
                archived.end_time = rfc3339(end)
                archived.accepted_until = rfc3339(end + grace_s)
                ended[archived.algorithm] = archived.fingerprint
        for key in wanted.values():
            term = _archived(key, rfc3339(now))
            term.start_size = size
            term.environment = environment
            term.replaces = ended.get(key.algorithm, "")
            stated = (provenance or {}).get(key.fingerprint)
            term.provenance = None if stated == NOTHING_STATED else stated
            self.keys.append(term)
        return bool(ended or wanted)

    def save(self, path: Path) -> None:
        """Write the archive, atomically and durably.

        Raises:
            OSError: the disk refuses.
        """
        document = _Archive(self.origin, self.keys)
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
        replace_file(path, data, 0o644)


def load_archive(path: Path) -> KeyArchive:
    """Return the archive in a file.

    Raises:
        ArchiveError: it is not there, or damaged.
    """
    try:
        data = read_regular(path, MAX_ARCHIVE_SIZE)
    except FileNotFoundError:
        msg = f"{path}: there is no key archive"
        raise ArchiveError(msg) from None
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise ArchiveError(msg) from None
    return parse_archive(data, str(path))


def parse_archive(data: bytes, name: str) -> KeyArchive:
    """Return the archive that a file's bytes are.

    Raises:
        ArchiveError: they are none, or damaged; the message begins with the file's name.
    """
    try:
        if len(data) > MAX_ARCHIVE_SIZE:
            raise ValueError(f"it has over {MAX_ARCHIVE_SIZE} bytes")  # noqa: TRY301 - named below
        document = msgspec.json.decode(data, type=_Archive)
        for archived in document.keys:
            _check(archived, document.origin)
    except (NoteError, ValueError, RecursionError) as error:
        msg = f"{name}: {error}"
        raise ArchiveError(msg) from None
    return KeyArchive(document.origin, document.keys)


def rfc3339(timestamp: float) -> str:
    """Return a Unix time as RFC 3339 in UTC, to the millisecond."""
    text = datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _unix(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _archived(key: VerifierKey, time: str) -> ArchivedKey:
    return ArchivedKey(str(key), key.algorithm, key.fingerprint, key.pem, time)


def _check(archived: ArchivedKey, origin: str) -> None:
    """Refuse an entry whose parts do not belong together."""
    key = archived.key
    expected = _archived(key, archived.start_time)
    if (archived.algorithm, archived.fingerprint, archived.public_key_pem, origin) != (
        expected.algorithm,
        expected.fingerprint,
        expected.public_key_pem,
        key.name,
    ):
        msg = f"the parts of the key {archived.fingerprint} do not belong together"
        raise ValueError(msg)
    times = (archived.start_time, archived.end_time, archived.accepted_until)
    if any(datetime.fromisoformat(time).tzinfo is None for time in times if time is not None):
        msg = f"a time of the key {archived.fingerprint} has no zone"
        raise ValueError(msg)
