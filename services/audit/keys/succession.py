"""From a key that somebody holds to those that took over from it, by what the log itself proves.

A rotation is a record that names the new key, and a checkpoint over that record that the old key
signed: its endorsement. Who holds the old key follows it to the new one, until the grace period of
the old one is over. The archive that lies beside a log is only where endorsements are found; what
it says is believed as far as a key that is trusted already signed it, and the verification of the
log checks the record and the checkpoint.
"""

from dataclasses import dataclass, field

import msgspec

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.archive import ArchivedKey, KeyArchive
from services.audit.keys.signatures import Keys
from services.audit.note import NoteError, VerifierKey


@dataclass
class Succession:
    """Where the keys that are trusted lead.

    Attributes:
        keys: those that are trusted now.
        endorsements: the checkpoints that led there; the log must still contain them.
        followed: for people, which key led to which.
        stale: for people, which key led nowhere any more.
    """

    keys: Keys
    endorsements: list[SignedCheckpoint] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)


def follow(keys: Keys, offered: KeyArchive, now: float) -> Succession:
    """Return the keys that those that are trusted endorsed, and theirs, and so on.

    Args:
        keys: who is trusted.
        offered: the archive beside the log, which anybody may have written.
        now: the time; a key leads on until its grace period is over.
    """
    trusted = {key.fingerprint: key for key in keys.named(offered.origin)}
    found = Succession(keys)
    terms: list[ArchivedKey] = []
    for term in offered.keys:
        if term.fingerprint in trusted or term.replaces not in trusted:
            continue
        old = next((o for o in reversed(offered.keys) if o.fingerprint == term.replaces), None)
        signed = _endorsement(term, trusted[term.replaces], offered.origin)
        if old is None or signed is None:
            continue
        names = f"the {term.algorithm} key {term.replaces[:16]}"
        if old.state(now) == "retired":
            found.stale.append(
                f"{names} was retired at {old.end_time} and accepted until {old.accepted_until}; "
                f"get the key {term.fingerprint[:16]} from whom you trust"
            )
            continue
        trusted[term.fingerprint] = term.key
        terms += [old, term]
        found.endorsements.append(signed)
        found.followed.append(f"{names} endorsed {term.fingerprint[:16]} at {term.start_time}")
    if terms:
        found.keys = _with(keys, terms, list(trusted.values()))
    return found


def endorsements(archive: KeyArchive) -> list[SignedCheckpoint]:
    """Return the checkpoints that endorse keys of an archive; the log must still contain them."""
    known = {key.fingerprint: key for key in archive.verifiers}
    found = (
        _endorsement(term, known[term.replaces], archive.origin)
        for term in archive.keys
        if term.replaces in known
    )
    return [signed for signed in found if signed is not None]


def _endorsement(term: ArchivedKey, old: VerifierKey, origin: str) -> SignedCheckpoint | None:
    """Return the checkpoint over a key's first record that the key before it signed, too."""
    if not term.endorsement or term.start_record is None:
        return None
    try:
        signed = parse_signed_checkpoint(term.endorsement.encode())
    except NoteError:
        return None
    if signed.checkpoint.origin != origin or signed.checkpoint.size <= term.start_record:
        return None
    text = signed.note.text.encode()
    lines = {(line.name, line.key_id): line.signature for line in signed.note.signatures}
    for key in (old, term.key):
        signature = lines.get((key.name, key.key_id))
        if signature is None or not key.verifies(text, signature):
            return None
    return signed


def _with(keys: Keys, terms: list[ArchivedKey], trusted: list[VerifierKey]) -> Keys:
    """Return keys with the terms that were followed in the place of what was known of them."""
    if keys.archive is None:
        return Keys(keys=trusted, followed=terms)
    newer = {(term.fingerprint, term.start_time): term for term in terms}
    merged = KeyArchive(
        keys.archive.origin,
        [
            newer.pop((term.fingerprint, term.start_time), term)
            for term in msgspec.json.decode(
                msgspec.json.encode(keys.archive.keys), type=list[ArchivedKey]
            )
        ],
    )
    merged.keys += newer.values()
    return Keys(merged)
