"""Who vouches for a checkpoint: its log's keys and its witnesses, measured by a policy's quorum."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.audit.checkpoint import SignedCheckpoint
from services.audit.keys.archive import rfc3339
from services.audit.note import Note, Signature
from services.audit.witnesses.cosignature import CosignedText, CosignerKey, cosigned_text
from services.audit.witnesses.policy import LogKey, Policy

MAX_AHEAD_S = 300
"""How far a witness's clock may be ahead of ours before its word does not count."""


@dataclass(frozen=True)
class Vouch:
    """One witness's word for a checkpoint: its name in the policy, and when it said so."""

    witness: str
    key_name: str
    time: int


@dataclass
class Vouched:
    """What a policy makes of one checkpoint.

    Attributes:
        origin: the log.
        size: the checkpoint's.
        by_log: whether a log of the policy signed it, or the policy names no logs.
        vouches: the witnesses whose cosignature is good, oldest first.
        problems: what is wrong with its lines; a checkpoint with problems is not accepted.
        quorum: whether the witnesses are enough.
    """

    origin: str
    size: int
    by_log: bool = False
    vouches: list[Vouch] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    quorum: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the policy accepts the checkpoint."""
        return self.by_log and self.quorum and not self.problems

    def document(self) -> dict[str, Any]:
        """Return it for machines."""
        return {
            "origin": self.origin,
            "size": self.size,
            "signed_by_log": self.by_log,
            "quorum": self.quorum,
            "accepted": self.accepted,
            "witnesses": [
                {"name": vouch.witness, "key": vouch.key_name, "time": rfc3339(vouch.time)}
                for vouch in self.vouches
            ],
            "problems": self.problems,
        }


def vouched(note: Note, policy: Policy, now: float) -> Vouched:
    """Return what a policy makes of a checkpoint.

    Args:
        note: the checkpoint with its lines; lines of unknown keys are ignored.
        policy: whom to believe.
        now: a Unix time; cosignatures from well after it do not count.

    Raises:
        NoteError: the note is not a checkpoint.
    """
    text = cosigned_text(note)
    origin = text.checkpoint.origin
    found = Vouched(origin, text.checkpoint.size, by_log=not policy.logs)
    for line in note.signatures:
        for log in policy.logs:
            if log.key.name == origin and (line.name, line.key_id) == (origin, log.key.key_id):
                if signs(log.key, text, line):
                    found.by_log = True
                else:
                    found.problems.append(f"the signature line of the log {origin} is wrong")
        for witness in policy.witnesses.values():
            if witness.key.owns(line):
                time = witness.key.time_of(text, line.signature)
                if time is None:
                    found.problems.append(f"the cosignature of {witness.name} is wrong")
                elif time > now + MAX_AHEAD_S:
                    found.problems.append(f"the cosignature of {witness.name} is from the future")
                elif time:
                    found.vouches.append(Vouch(witness.name, witness.key.name, time))
    found.vouches.sort(key=lambda vouch: (vouch.time, vouch.witness))
    found.quorum = policy.met({vouch.witness for vouch in found.vouches})
    return found


def best_vouched(
    checkpoints: Iterable[SignedCheckpoint], policy: Policy, now: float
) -> list[Vouched]:
    """Return what the policy makes of checkpoints, the largest first; those without lines too."""
    found = [vouched(signed.note, policy, now) for signed in checkpoints]
    return sorted(found, key=lambda one: (one.size, one.accepted, len(one.vouches)), reverse=True)


def signs(key: LogKey, text: CosignedText, line: Signature) -> bool:
    """Say whether a line is a log key's signature of a checkpoint."""
    if isinstance(key, CosignerKey):
        return key.time_of(text, line.signature) is not None
    return key.verifies(text.text.encode(), line.signature)
