"""Which keys may sign a log, and whether they did."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from services.audit.checkpoint import SignedCheckpoint
from services.audit.keys.archive import (
    MAX_ARCHIVE_SIZE,
    ArchivedKey,
    ArchiveError,
    KeyArchive,
    parse_archive,
)
from services.audit.note import (
    Algorithm,
    NoteError,
    PublicKey,
    VerifierKey,
    parse_verifier_key,
)
from services.audit.verification.inventory import CHECKPOINT
from services.audit.verification.report import Report, SignatureCheck


class Keys:
    """The keys that a verification trusts.

    Args:
        archive: every key that ever signed, with its validity; then no line may be unknown.
        keys: some keys, when there is no archive; lines of others are not checked.
        followed: the terms of those of them that an endorsement led to.
    """

    def __init__(
        self,
        archive: KeyArchive | None = None,
        keys: Sequence[VerifierKey | PublicKey] = (),
        followed: Sequence[ArchivedKey] = (),
    ) -> None:
        """See the class."""
        self.archive = archive
        self._keys = keys
        self._followed = followed

    @property
    def terms(self) -> Sequence[ArchivedKey]:
        """What is known of when the keys signed."""
        return self._followed if self.archive is None else self.archive.keys

    def named(self, origin: str) -> list[VerifierKey]:
        """Return the keys as keys of a log; a bare key takes any log's name."""
        if self.archive is not None:
            return self.archive.verifiers
        return [
            key if isinstance(key, VerifierKey) else VerifierKey(origin, key) for key in self._keys
        ]


def load_keys(path: Path) -> Keys:
    """Return the keys in a file: a key archive, a PEM public key, or verifier key lines.

    Raises:
        ArchiveError: it is none of them.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ARCHIVE_SIZE + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise ArchiveError(msg) from None
    if data.lstrip().startswith(b"{") or len(data) > MAX_ARCHIVE_SIZE:
        return Keys(parse_archive(data, str(path)))
    if data.lstrip().startswith(b"-----BEGIN PUBLIC KEY"):
        try:
            key = load_pem_public_key(data)
        except ValueError:
            key = None
        if isinstance(key, PublicKey):
            return Keys(keys=[key])
    try:
        lines = [line.strip() for line in data.decode().splitlines() if line.strip()]
        keys = [parse_verifier_key(line) for line in lines]
    except (NoteError, UnicodeDecodeError):
        keys = []
    if not keys:
        msg = f"{path}: holds no key archive, no PEM public key and no verifier key"
        raise ArchiveError(msg)
    return Keys(keys=keys)


def check_signatures(
    signed: SignedCheckpoint, keys: Keys, report: Report, *, newest: bool = True
) -> None:
    """Verify the signature lines of a checkpoint.

    With an archive every line must be by a key of it that was in force at this size of the log, and
    of each algorithm that was in force there must be a line. With single keys one of them at least
    must have signed.
    """
    origin = signed.checkpoint.origin
    where = CHECKPOINT if newest else f"the checkpoint of size {signed.checkpoint.size}"
    path = CHECKPOINT if newest else None
    known = {(key.name, key.key_id): key for key in keys.named(origin)}
    good: set[VerifierKey] = set()
    for line in signed.note.signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            state = _unknown(line.name, origin, keys, report, where, path)
        elif key.name == origin and key.verifies(signed.note.text.encode(), line.signature):
            state = SignatureCheck(key.algorithm, key.fingerprint, "good")
            wrong = outside_validity(keys, key, signed.checkpoint.size)
            if wrong:
                state = SignatureCheck(key.algorithm, key.fingerprint, "bad")
                report.add("signatures", "wrongly signed", f"{where}: {wrong}", path=path)
            good.add(key)
        else:
            state = SignatureCheck(key.algorithm, key.fingerprint, "bad")
            message = f"{where}: the {key.algorithm} signature of {line.name} is wrong"
            report.add("signatures", "wrongly signed", message, path=path)
        if newest:
            report.signatures.append(state)
    if not good:
        message = f"{where}: no trusted key signed it"
        report.add("signatures", "wrongly signed", message, path=path)
    elif keys.archive is not None:
        for algorithm, names in _in_force(keys.archive, signed.checkpoint.size, newest=newest):
            if not names & {key.fingerprint for key in good}:
                message = f"{where}: the active {algorithm} key did not sign it"
                report.add("signatures", "wrongly signed", message, path=path)


def outside_validity(keys: Keys, key: VerifierKey, size: int) -> str:
    """Return why a key could not sign a checkpoint of this size; empty when it could.

    Sizes decide and not times: a checkpoint carries none, and the log tells where a key came and
    went.
    """
    terms = [term for term in keys.terms if term.fingerprint == key.fingerprint]
    if not terms or any(term.may_sign(size) for term in terms):
        return ""
    return (
        f"the {key.algorithm} key {key.fingerprint[:16]} signed size {size} outside its validity: "
        f"{terms[-1].validity}"
    )


def _in_force(
    archive: KeyArchive, size: int, *, newest: bool
) -> Iterator[tuple[Algorithm, set[str]]]:
    """Yield each algorithm of which somebody was to sign a checkpoint, and who.

    While one key takes over from another, either is enough.
    """
    names: dict[Algorithm, set[str]] = {}
    for term in archive.keys:
        if term.in_force(size) and (newest or term.start_size is not None):
            names.setdefault(term.algorithm, set()).add(term.fingerprint)
    yield from names.items()


def _unknown(  # noqa: PLR0913, PLR0917 - what a finding is made of
    name: str, origin: str, keys: Keys, report: Report, where: str, path: str | None
) -> SignatureCheck:
    if name != origin:  # A witness speaks for itself: a policy decides whom to believe.
        return SignatureCheck(f"cosignature of {name}", "", "not checked")
    if keys.archive is None:
        return SignatureCheck("unknown", "", "not checked")
    message = f"{where}: a signature line of {name} is by no key in the archive"
    report.add("signatures", "wrongly signed", message, path=path)
    return SignatureCheck("unknown", "", "bad")
