"""What an archive consists of, and what is written down about it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from services.audit.history import thinned
from services.audit.keys.archive import load_archive
from services.audit.layout import Layout
from services.common.files import replace_file

MANIFEST = "archive.json"
LOG = "log"
KEYS = "log.keys"
HISTORIES = ("checkpoints.jsonl", "witnessed.jsonl")
PRIVATE = "log.private"
ARCHIVED = "archived"
"""The file beside the log that says what the last good archive holds."""

_VERSION = 1
_HISTORY_EVERY_S = 3_600


class _Remembered(msgspec.Struct):
    time: float


class ArchivingError(Exception):
    """The log must not be archived, or not there; the message says why."""


class Archived(msgspec.Struct):
    """What the last good archive holds, as it is written beside the log and into the archive."""

    origin: str
    size: int
    root: str
    time: str
    target: str
    pruned: int = 0
    version: int = _VERSION


@dataclass
class ArchiveReport:
    """What archiving did.

    Attributes:
        copied: objects that were copied, and proven by reading them back.
        present: objects that were there already.
        healed: objects that were there once and were lost; they are there again.
        damaged: objects of the archive that are not what the log signed; they stay as they are
            unless they are to be repaired.
        repaired: damaged objects that were replaced with what the log signed.
        absent: entry bundles that were pruned from the log before they were archived.
        remembered: whether the time of this archive is written down beside the log.
    """

    origin: str = ""
    target: str = ""
    size: int = 0
    previous_size: int = 0
    copied: int = 0
    bytes_copied: int = 0
    present: int = 0
    healed: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    absent: int = 0
    remembered: bool = False
    seconds: float = 0.0
    time: str = ""

    @property
    def good(self) -> bool:
        """Whether the archive holds the log."""
        return not self.damaged

    def document(self) -> dict[str, Any]:
        """Return the report for machines."""
        return {"good": self.good, **vars(self)}


def read_archived(layout: Layout) -> Archived | None:
    """Return what the last good archive holds; None when nobody knows."""
    try:
        return msgspec.json.decode((layout.private / ARCHIVED).read_bytes(), type=Archived)
    except (OSError, msgspec.DecodeError):
        return None


def write_archived(layout: Layout, data: bytes) -> bool:
    """Write down beside the log what the last good archive holds; say whether that could be."""
    path = layout.private / ARCHIVED
    try:
        replace_file(path, data)
    except OSError:
        return False
    return True


def merged_keys(there: bytes | None, here: Path) -> bytes:
    """Return the log's key archive, which must hold every key that the archive's has."""
    data = here.read_bytes()
    if there is not None:
        try:
            old = {key["verifier_key"] for key in msgspec.json.decode(there)["keys"]}
        except (msgspec.DecodeError, KeyError, TypeError):
            msg = "the archive's key archive is damaged; archive to another place"
            raise ArchivingError(msg) from None
        if not old <= {key.verifier_key for key in load_archive(here).keys}:
            msg = f"{here} lacks keys that the archive has; the archive stays as it is"
            raise ArchivingError(msg)
    return data


def merged_lines(there: bytes | None, here: Path) -> bytes:
    """Return remembered checkpoints: those of the archive, then one an hour of the newer ones.

    The newest is always among them; the older ones are thinned out as they are beside the log.
    """
    old = (there or b"").split(b"\n")[:-1]
    merged, last = [*old], _time(old[-1]) if old else float("-inf")
    newer = [line for line in (read_file(here) or b"").split(b"\n")[:-1] if _time(line) > last]
    for position, line in enumerate(newer, 1):
        if _time(line) - last >= _HISTORY_EVERY_S or position == len(newer):
            merged.append(line)
            last = _time(line)
    return b"".join(line + b"\n" for line in thinned(merged, last))


def _time(line: bytes) -> float:
    try:
        return msgspec.json.decode(line, type=_Remembered).time
    except msgspec.DecodeError:
        msg = "the remembered checkpoints are damaged; run `weaver audit verify`"
        raise ArchivingError(msg) from None


def read_file(path: Path) -> bytes | None:
    """Return the bytes of a file; None when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None
