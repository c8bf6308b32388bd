"""Whether the archive of public keys and the log agree on when keys came and went."""

import contextlib
from datetime import datetime

import msgspec

from services.audit.keys.archive import DAY_S, ArchivedKey
from services.audit.keys.signatures import Keys
from services.audit.verification.report import Report


class _Rotation(msgspec.Struct):
    """What is read of a record of a key rotation."""

    attributes: dict[str, str] = {}


class Rotations:
    """Collects the records that announce keys.

    Args:
        report: where findings go.
    """

    def __init__(self, report: Report) -> None:
        """See the class."""
        self._report = report
        self._announced: dict[int, str] = {}
        self._retired: dict[int, str] = {}

    def take(self, index: int, entry: bytes) -> None:
        """Read the record of a rotation."""
        attributes = msgspec.json.decode(entry, type=_Rotation).attributes
        # The first logs had no records of a rotation, only of a key that came or went.
        early = attributes.get("fingerprint", "")
        if attributes.get("action") in {"added", "rotated"}:
            self._announced[index] = attributes.get("new_fingerprint") or early
        if attributes.get("action") in {"retired", "rotated"}:
            self._retired[index] = attributes.get("old_fingerprint") or early

    def compare(self, keys: Keys, *, whole: bool, newest_time: str = "") -> None:
        """Report entries of the archive that the log does not bear out.

        Args:
            keys: whose archive it is, if there is one.
            whole: whether every record was read; else only those that were can contradict.
            newest_time: the latest time of a record that was read.
        """
        for term in keys.terms:
            self._compare(term, "announces", self._announced, term.start_record, whole=whole)
            self._compare(term, "retires", self._retired, term.end_record, whole=whole)
        if keys.archive is None:
            return
        if whole:
            self._compare_archive(keys)
        with contextlib.suppress(ValueError):  # A record's time that is none proves nothing.
            self._compare_times(keys, datetime.fromisoformat(newest_time))

    def _compare(
        self, term: ArchivedKey, what: str, said: dict[int, str], at: int | None, *, whole: bool
    ) -> None:
        if at is None or at >= self._report.size:
            return  # Announced behind the checkpoint, or not yet.
        found = said.get(at)
        if found == term.fingerprint or (found is None and not whole):
            return
        message = (
            f"the archive says that record {at} {what} the {term.algorithm} key "
            f"{term.fingerprint[:16]}; it does not"
        )
        self._report.add("signatures", "wrongly signed", message, index=at)

    def _compare_archive(self, keys: Keys) -> None:
        """Report keys that the log announces and the archive does not know, and the reverse.

        Who writes the archive could add a key of their own and sign with it. While a key takes over
        from another both sign, and its record may still be under way.
        """
        good = [line for line in self._report.signatures if line.state == "good"]
        fingerprints = set(self._announced.values())
        for term in keys.terms if self._announced else ():
            signed = {line.fingerprint for line in good if line.algorithm == term.algorithm}
            # A writer that is killed has not told the archive yet; the log itself decides.
            announced = term.start_record is not None or term.fingerprint in fingerprints
            if not announced and signed == {term.fingerprint}:
                message = f"no record announces the {term.algorithm} key {term.fingerprint[:16]}"
                self._report.add("signatures", "wrongly signed", message, path="checkpoint")
        known = {term.fingerprint for term in keys.terms}
        for at, fingerprint in self._announced.items():
            if fingerprint not in known and at < self._report.size:
                message = (
                    f"record {at} announces the key {fingerprint[:16]}, which the archive of keys "
                    f"does not have"
                )
                self._report.add("signatures", "missing", message, index=at)

    def _compare_times(self, keys: Keys, newest: datetime) -> None:
        """Report keys that signed the newest checkpoint after their time, or before it.

        The clocks of services differ, so what came a day too early passes; what came too late had
        the whole grace period.
        """
        signed = {line.fingerprint for line in self._report.signatures if line.state == "good"}
        for fingerprint in signed:
            terms = [term for term in keys.terms if term.fingerprint == fingerprint]
            if not terms or any(_covers(term, newest) for term in terms):
                continue
            message = (
                f"checkpoint: the {terms[-1].algorithm} key {fingerprint[:16]} signed it outside "
                f"its validity: {terms[-1].validity}, and the log has a record of {newest}"
            )
            self._report.add("signatures", "wrongly signed", message, path="checkpoint")


def _covers(term: ArchivedKey, moment: datetime) -> bool:
    start = datetime.fromisoformat(term.start_time)
    if (start - moment).total_seconds() > DAY_S:
        return False
    end = term.accepted_until or term.end_time
    return end is None or moment <= datetime.fromisoformat(end)
