"""Remembers in which environment a key was first used, so that no other one takes it.

The archive of a log remembers its own keys. What is remembered here is beside the logs: a file in
the state directory, for all logs of a machine. It is a help against mistakes and no proof.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from services.audit.keys.archive import ArchiveError, KeyArchive, load_archive
from services.audit.keys.files import write
from services.audit.keys.signers import KeyProblem

FILE = "first-used.json"
_DEFAULT_HOST = "weaver.local"


class FirstUse(msgspec.Struct, frozen=True):
    """Where a key was first used, and in which log."""

    environment: str
    origin: str
    time: str


class FirstUses:
    """The keys of a machine, by fingerprint.

    Args:
        path: the file that remembers them; it may be missing, or not writable.
        archives: archives of other logs.
    """

    def __init__(self, path: Path, archives: Iterable[Path] = ()) -> None:
        """See the class."""
        self._path = path
        self._archives = tuple(archives)

    def find(self, fingerprint: str, archive: KeyArchive) -> list[FirstUse]:
        """Return what is known of a key, from the archive of its log and from elsewhere."""
        uses = _of_archive(archive, fingerprint)
        for path in self._archives:
            try:
                uses += _of_archive(load_archive(path), fingerprint)
            except ArchiveError:
                continue  # Another log's; not ours to judge.
        known = self._read().get(fingerprint)
        return uses if known is None else [*uses, known]

    def remember(self, fingerprints: Iterable[str], use: FirstUse) -> None:
        """Take note of keys that are not known yet, if the file can be written."""
        known = self._read()
        new = {name: use for name in fingerprints if name not in known}
        if new:
            data = msgspec.json.format(msgspec.json.encode(known | new), indent=2) + b"\n"
            try:
                write(self._path, data, 0o600, replace=True)
            except KeyProblem:
                return  # A state directory that cannot be written remembers nothing.

    def _read(self) -> dict[str, FirstUse]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, FirstUse])
        except (OSError, ValueError):
            return {}


def check_environment(
    source: str, fingerprint: str, stated: str, environment: str, uses: Iterable[FirstUse]
) -> None:
    """Refuse a key that belongs to another environment.

    Args:
        source: the variable or file that it is from.
        fingerprint: the key.
        stated: the environment that it was made for, if that was said.
        environment: this one.
        uses: where it was used before.

    Raises:
        KeyProblem: it was made for, or first used in, another one.
    """
    advice = f"{environment} needs a key of its own: `weaver keys generate`."
    if stated and stated != environment:
        msg = f"{source}: the key {fingerprint[:16]} was made for {stated}; {advice}"
        raise KeyProblem(msg)
    for use in uses:
        if use.environment and use.environment != environment:
            msg = (
                f"{source}: the key {fingerprint[:16]} was first used in {use.environment}, "
                f"for the log {use.origin}; {advice}"
            )
            raise KeyProblem(msg)


def _of_archive(archive: KeyArchive, fingerprint: str) -> list[FirstUse]:
    origin = archive.origin
    return [
        FirstUse(term.environment or _environment_of(origin), origin, term.start_time)
        for term in archive.terms(fingerprint)
    ]


def _environment_of(origin: str) -> str:
    """Return the environment that a default origin carries."""
    prefix, environment, _ = (*origin.split("/", 2), "", "")[:3]
    return environment if prefix == _DEFAULT_HOST else ""
