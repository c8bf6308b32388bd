"""Where backups lie: `<kind>/<time>/` in a directory or a bucket, sealed, with a manifest.

A backup is there once its manifest is, which is written last; parts without one are what a run that
broke off left behind. A part is at most 64 MiB, so memory is a part whatever the size. The parts of
a backup, one behind the other, are one file of age's. It refuses to hand out a byte that is not
what was put in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, Literal, get_args

import msgspec

from services.audit.archives.targets import RemovingTarget
from services.cli.backup import age, age_keys
from services.cli.backup.retention import Retention, kept
from services.common.backups import Standing

Kind = Literal["redis", "keys", "side-store"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MANIFEST: Final = "backup.json"
PART_BYTES: Final = 64 * 1024 * 1024
STAMP: Final = "%Y%m%dT%H%M%SZ"
_VERSION = 1
_DRILL = "drill.json"


class ShelfError(Exception):
    """A backup is missing, damaged, or in the way; the message is for operators."""


class Part(msgspec.Struct, frozen=True):
    """One object of a backup, as it lies there.

    Attributes:
        name: its name below the backup.
        size: its bytes.
        sha256: its digest, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


class Backup(msgspec.Struct, frozen=True):
    """The manifest of one backup.

    Attributes:
        kind: what was backed up.
        time: when, as in the name of its directory.
        source: where from; for people.
        size: the bytes before they were sealed.
        sha256: their digest, in hexadecimal.
        parts: what lies there, in order.
        facts: what was known of the content then, such as the number of keys.
    """

    kind: Kind
    time: str
    source: str
    size: int
    sha256: str
    parts: tuple[Part, ...]
    facts: dict[str, int | str] = {}
    version: int = _VERSION

    @property
    def when(self) -> datetime:
        """The time, in UTC."""
        return datetime.strptime(self.time, STAMP).replace(tzinfo=UTC)

    @property
    def stored(self) -> int:
        """The bytes that lie there."""
        return sum(part.size for part in self.parts)


class Shelf:
    """Puts backups into a target and finds them again.

    Args:
        target: the directory or bucket.
    """

    def __init__(self, target: RemovingTarget) -> None:
        """See the class."""
        self.target = target

    def put(  # noqa: PLR0913 - a backup has so many sides
        self,
        kind: Kind,
        data: Iterable[bytes],
        *,
        now: datetime,
        source: str,
        recipients: Sequence[age_keys.Recipient],
        facts: dict[str, int | str],
    ) -> Backup:
        """Seal a backup, put it there, and prove it by reading it back.

        Raises:
            AgeError: nobody could open it.
            ShelfError: one of that second is there, or it comes back changed.
            TargetError: the target refuses.
        """
        stamp = now.astimezone(UTC).strftime(STAMP)
        where = f"{kind}/{stamp}"
        if self.target.sizes(f"{where}/"):
            msg = f"{self.target.name}/{where} is there already; wait a second"
            raise ShelfError(msg)
        plain, size = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for piece in data:
                plain.update(piece)
                size += len(piece)
                yield piece

        parts: list[Part] = []
        for number, part in enumerate(_parts(age.seal(counted(), recipients))):
            name = f"part-{number:05d}.age"
            digest = hashlib.sha256(part).hexdigest()
            self.target.write(f"{where}/{name}", part)
            self._read_part(where, Part(name, len(part), digest))
            parts.append(Part(name, len(part), digest))
        backup = Backup(kind, stamp, source, size, plain.hexdigest(), tuple(parts), facts)
        self.target.write(f"{where}/{MANIFEST}", msgspec.json.encode(backup) + b"\n")
        return backup

    def stamps(self, kind: Kind) -> list[str]:
        """Return the times of the backups that are whole, the oldest first.

        Raises:
            TargetError: the target does not answer.
        """
        return sorted(stamp for stamp, paths in self._found(kind).items() if MANIFEST in paths)

    def manifest(self, kind: Kind, stamp: str = "") -> Backup:
        """Return a backup's manifest; the newest where no time is given.

        Raises:
            ShelfError: there is none, or it is damaged.
            TargetError: the target does not answer.
        """
        if not stamp:
            stamps = self.stamps(kind)
            if not stamps:
                msg = f"{self.target.name} has no backup of {kind}"
                raise ShelfError(msg)
            stamp = stamps[-1]
        place = f"{self.target.name}/{kind}/{stamp}"
        data = self.target.read(f"{kind}/{stamp}/{MANIFEST}")
        if data is None:
            msg = f"{place} is no backup; `weaver backup list` names those that are there"
            raise ShelfError(msg)
        try:
            found = msgspec.json.decode(data, type=Backup)
        except (msgspec.DecodeError, ValueError):
            found = None
        if found is None or (found.kind, found.time) != (kind, stamp):
            msg = f"{place}/{MANIFEST} is damaged: take an older one with --at"
            raise ShelfError(msg)
        return found

    def open(self, backup: Backup, identities: Sequence[age_keys.Identity]) -> Iterator[bytes]:
        """Return what was backed up, piece by piece, verified; the whole of it at the end.

        Raises:
            AgeError: the identities do not open it, or it was changed.
            ShelfError: a part is lost or was changed.
            TargetError: the target does not answer.
        """
        where = f"{backup.kind}/{backup.time}"
        parts = (self._read_part(where, part) for part in backup.parts)
        plain = hashlib.sha256()
        for piece in age.open_sealed(parts, identities):
            plain.update(piece)
            yield piece
        if plain.hexdigest() != backup.sha256:
            msg = f"{self.target.name}/{where} is not what was backed up"
            raise ShelfError(msg)

    def prune(
        self, kind: Kind, rule: Retention, now: datetime, *, dry_run: bool
    ) -> tuple[dict[str, list[str]], list[str]]:
        """Remove what the rule does not keep, and what runs that broke off left behind.

        Returns:
            The times that stay, with the reasons, and those that went.

        Raises:
            TargetError: the target refuses.
        """
        found = self._found(kind)
        whole = {_time(stamp): stamp for stamp, names in found.items() if MANIFEST in names}
        staying = {whole[time]: why for time, why in kept(whole, rule, now).items()}
        going = sorted(
            stamp
            for stamp, names in found.items()
            # A run may be under way: what it has so far is left alone for a day.
            if (stamp in whole.values() and stamp not in staying)
            or (MANIFEST not in names and (now - _time(stamp)).days >= 1)
        )
        if not dry_run:
            for stamp in going:
                # Without its manifest it is no backup any more, whatever happens next.
                names = sorted(found[stamp], key=lambda name: name != MANIFEST)
                self.target.remove([f"{kind}/{stamp}/{name}" for name in names])
        return staying, going

    def note_drill(self, now: datetime) -> None:
        """Write down that everything here was brought back for a trial.

        Raises:
            TargetError: the target refuses.
        """
        self.target.write(_DRILL, msgspec.json.encode(Standing(now.timestamp())) + b"\n")

    def last_drill(self) -> Standing | None:
        """Return when that was; None for never.

        Raises:
            TargetError: the target does not answer.
        """
        data = self.target.read(_DRILL)
        try:
            return None if data is None else msgspec.json.decode(data, type=Standing)
        except msgspec.DecodeError:
            return None

    def _found(self, kind: Kind) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in self.target.sizes(f"{kind}/"):
            parts = path.split("/")
            if len(parts) == 3 and _is_stamp(parts[1]):  # noqa: PLR2004 - kind, time, name
                found.setdefault(parts[1], set()).add(parts[2])
        return found

    def _read_part(self, where: str, part: Part) -> bytes:
        data = self.target.read(f"{where}/{part.name}")
        if data is None or hashlib.sha256(data).hexdigest() != part.sha256:
            what = "lost" if data is None else "not what was put there"
            msg = f"{self.target.name}/{where}/{part.name} is {what}: take another with --at"
            raise ShelfError(msg)
        return data


def _parts(data: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for piece in data:
        held += piece
        if len(held) >= PART_BYTES:
            yield bytes(held[:PART_BYTES])
            del held[:PART_BYTES]
    if held:
        yield bytes(held)


def _time(stamp: str) -> datetime:
    return datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)


def _is_stamp(text: str) -> bool:
    try:
        return _time(text).strftime(STAMP) == text
    except ValueError:
        return False
