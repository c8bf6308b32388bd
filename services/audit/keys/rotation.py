"""Takes keys into use and retires them, so that the log itself proves who may sign it.

The order of a rotation: the archive knows the new key, then both keys sign, then the rotation is a
record, then a checkpoint covers that record with both signatures, then the old key signs no more.
The process may die between any two steps; the next start takes the rest, with the old key if it is
given, and without it the change stays unendorsed, and says so.
"""

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path

from services.audit.keys.archive import ArchivedKey, KeyArchive
from services.audit.keys.keyring import EventWriter, KeyObserver, KeyRing, LogView, Terms
from services.audit.keys.signers import KeyProblem, Signer
from services.audit.keys.source import LoadedKey
from services.common.clock import Clock

_COVER_S = 10.0


class Rotation:
    """Changes the keys of one log.

    Args:
        archive: the log's keys.
        path: the archive's file.
        ring: who signs.
        clock: for times.
        terms: what holds here.
        observer: is told what happens.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a rotation touches
        self,
        archive: KeyArchive,
        path: Path,
        ring: KeyRing,
        clock: Clock,
        terms: Terms,
        observer: KeyObserver,
    ) -> None:
        """See the class."""
        self._archive = archive
        self._path = path
        self._ring = ring
        self._clock = clock
        self._terms = terms
        self._observer = observer
        self._sources: dict[str, str] = {}

    def prepare(self, keys: Sequence[LoadedKey], size: int) -> None:
        """Let the archive and the ring know who signs from now on; blocks on the disk.

        Args:
            keys: the keys in use from now on.
            size: how many records the published tree has.

        Raises:
            KeyProblem: a key was retired and its grace period is over.
            OSError: the archive cannot be written; nothing changed.
        """
        self._refuse_retired(keys)
        draft = KeyArchive(self._archive.origin, copy.deepcopy(self._archive.keys))
        changed = draft.use(
            [key.signer.verifier for key in keys],
            self._clock.time(),
            size=size,
            grace_s=self._terms.grace_s,
            environment=self._terms.environment,
            provenance={key.signer.verifier.fingerprint: key.provenance for key in keys},
        )
        outgoing = self._outgoing(draft, keys)
        kept = {signer.verifier.fingerprint for signer in outgoing}
        for term in draft.keys:
            if term.end_time is not None and term.end_size is None and term.fingerprint not in kept:
                term.end_size = size
                changed = True
        if changed:
            draft.save(self._path)
        self._archive.keys[:] = draft.keys
        self._sources |= {key.signer.verifier.fingerprint: key.source for key in keys}
        self._ring.turn([key.signer for key in keys], outgoing)
        self._observer.in_use(self._archive)

    @property
    def pending(self) -> bool:
        """Whether a step of a rotation is still to be done."""
        return bool(self._ring.outgoing) or any(
            term.start_record is None or (term.end_time is not None and term.end_record is None)
            for term in self._archive.keys
        )

    async def complete(self, log: LogView, events: EventWriter) -> None:
        """Record what changed and have it endorsed; to be repeated while it is `pending`.

        Raises:
            OSError: the archive cannot be written.
        """
        if not self.pending:
            return
        if await self._record(events):
            await self._save()
        outgoing = {signer.verifier.fingerprint: signer for signer in self._ring.outgoing}
        if not outgoing:
            return
        endorsed = [term for term in self._archive.active if term.replaces in outgoing]
        needed = max((term.start_record or 0 for term in endorsed), default=0) + 1
        if any(term.start_record is None for term in endorsed):
            return
        if not await log.wait_integrated(needed, _COVER_S) or log.checkpoint is None:
            return
        signed = log.checkpoint.note
        lines = {(line.name, line.key_id) for line in signed.signatures}
        ends = [outgoing[term.replaces].verifier for term in endorsed]
        wanted = [term.key for term in endorsed] + ends
        if not all((key.name, key.key_id) in lines for key in wanted):
            return  # Signed before both were there; the next record brings the next checkpoint.
        self._ring.turn(self._ring.current, ())
        for term in endorsed:
            term.endorsement = str(signed)
        for term in self._archive.keys:
            if term.fingerprint in outgoing and term.end_time is not None:
                # Whatever is being signed at this moment covers no more than is durable now.
                term.end_size = max(log.size, term.end_size or 0)
        await self._save()

    async def change(self, keys: Sequence[LoadedKey], log: LogView, events: EventWriter) -> bool:
        """Take other keys into use while the service runs; False when an earlier change must end.

        Raises:
            KeyProblem: a key was retired and its grace period is over.
            OSError: the archive cannot be written.
        """
        current = [signer.verifier for signer in self._ring.current]
        if [key.signer.verifier for key in keys] == current:
            return True
        if self.pending:
            return False
        await asyncio.to_thread(self.prepare, keys, log.integrated)
        await self.complete(log, events)
        return True

    def _outgoing(self, draft: KeyArchive, keys: Sequence[LoadedKey]) -> tuple[Signer, ...]:
        """Return who can endorse the keys that took over and are not endorsed yet."""
        at_hand = (*self._ring.current, *self._ring.outgoing)
        given = (signer for key in keys for signer in key.previous)
        signers = {signer.verifier.fingerprint: signer for signer in (*given, *at_hand)}
        now = self._clock.time()
        wanted = {
            term.replaces: None
            for term in draft.active
            if term.replaces in signers
            and not term.endorsement
            and any(
                old.end_record is None or old.state(now) == "grace"
                for old in draft.terms(term.replaces)
            )
        }
        return tuple(signers[fingerprint] for fingerprint in wanted)

    def _refuse_retired(self, keys: Sequence[LoadedKey]) -> None:
        now = self._clock.time()
        for key in keys:
            terms = self._archive.terms(key.signer.verifier.fingerprint)
            if terms and all(term.state(now) == "retired" for term in terms):
                msg = (
                    f"{key.source}: the key {terms[-1].fingerprint[:16]} was retired at "
                    f"{terms[-1].end_time} and accepted until {terms[-1].accepted_until}; "
                    f"it does not sign again. Use a new one."
                )
                raise KeyProblem(msg)

    async def _record(self, events: EventWriter) -> bool:
        """Write what is not in the log yet; say whether anything was."""
        changed = False
        for term in self._archive.keys:
            if term.start_record is None:
                attributes = self._announcement(term)
                index = await events.record("key_rotation", attributes)
                if index is None:
                    return changed
                changed = True
                term.start_record = index
                for old in self._archive.terms(term.replaces):
                    if old.end_time is not None and old.end_record is None:
                        old.end_record = index
                self._observer.rotated(attributes)
        for term in self._archive.keys:
            if term.end_time is not None and term.end_record is None:
                attributes = {
                    "action": "retired",
                    "algorithm": term.algorithm,
                    "old_fingerprint": term.fingerprint,
                    "old_accepted_until": term.accepted_until or term.end_time,
                    "noticed_by": self._terms.host,
                }
                term.end_record = await events.record("key_rotation", attributes)
                changed = changed or term.end_record is not None
                self._observer.rotated(attributes)
        return changed

    def _announcement(self, term: ArchivedKey) -> dict[str, str]:
        attributes = {
            "action": "rotated" if term.replaces else "added",
            "algorithm": term.algorithm,
            "new_fingerprint": term.fingerprint,
            "environment": term.environment,
            "source": self._sources.get(term.fingerprint, ""),
            "noticed_by": self._terms.host,
        }
        stated = term.provenance
        attributes["made_by"] = stated.made_by if stated else "not stated"
        attributes["made_on"] = stated.made_on if stated else "not stated"
        attributes["made_time"] = stated.made_time if stated else "not stated"
        attributes["reason"] = stated.reason if stated else "not stated"
        if term.replaces:
            outgoing = [signer.verifier.fingerprint for signer in self._ring.outgoing]
            old = self._archive.terms(term.replaces)
            attributes["old_fingerprint"] = term.replaces
            attributes["endorsed"] = str(term.replaces in outgoing).lower()
            attributes["old_accepted_until"] = (old[-1].accepted_until if old else None) or ""
        return {name: value for name, value in attributes.items() if value}

    async def _save(self) -> None:
        snapshot = KeyArchive(self._archive.origin, copy.deepcopy(self._archive.keys))
        await asyncio.to_thread(snapshot.save, self._path)
