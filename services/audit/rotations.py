"""Whether the archive of public keys and the log agree on when keys came and went."""

import msgspec

from services.audit.archive import ArchivedKey
from services.audit.report import Report
from services.audit.signatures import Keys


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
        self._announced: dict[int, tuple[str, str]] = {}

    def take(self, index: int, entry: bytes) -> None:
        """Read the record of a rotation."""
        attributes = msgspec.json.decode(entry, type=_Rotation).attributes
        named = attributes.get("action", ""), attributes.get("fingerprint", "")
        self._announced[index] = named

    def compare(self, keys: Keys, *, whole: bool) -> None:
        """Report entries of the archive that the log does not bear out.

        Args:
            keys: whose archive it is, if there is one.
            whole: whether every record was read; else only those that were can contradict.
        """
        if keys.archive is None:
            return
        for archived in keys.archive.keys:
            self._compare(archived, "added", archived.start_record, whole=whole)
            self._compare(archived, "retired", archived.end_record, whole=whole)

    def _compare(self, archived: ArchivedKey, action: str, at: int | None, *, whole: bool) -> None:
        if at is None or at >= self._report.size:
            return  # Announced behind the checkpoint, or not yet.
        said = self._announced.get(at)
        if said == (action, archived.fingerprint) or (said is None and not whole):
            return
        message = (
            f"the archive says that record {at} announces the {archived.algorithm} key "
            f"{archived.fingerprint[:16]} as {action}; it does not"
        )
        self._report.add("signatures", "wrongly signed", message, index=at)
