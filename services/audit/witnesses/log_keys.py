"""The logs that a witness knows: their verifier keys, in files that may change while it runs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from services.audit.keys.archive import ArchiveError, load_archive
from services.audit.note import NoteError
from services.audit.witnesses.policy import LogKey, parse_log_key
from services.audit.witnesses.witness import LogKeys


class LogKeysError(Exception):
    """A file or argument holds no log's keys; the message is for people."""


class KnownLogs:
    """The keys of logs, by origin, read again when a file changes.

    A file that is damaged later is reported and what was known before stays.

    Args:
        sources: verifier keys, or files with verifier keys (or `log` lines of a policy, or a key
            archive).
        say: is told, once for each version of a file, when it cannot be read again.

    Raises:
        LogKeysError: one of them holds no key.
    """

    def __init__(self, sources: Sequence[str], say: Callable[[str], None]) -> None:
        """See the class."""
        self._say = say
        self._given = [_key(source) for source in sources if _is_key(source)]
        self._files = [Path(source) for source in sources if not _is_key(source)]
        self._stamp = self._stamps()
        self._known = self._read()

    def __call__(self) -> LogKeys:
        """Return the keys of each known log, by its origin."""
        stamp = self._stamps()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._known = self._read()
            except LogKeysError as error:
                self._say(f"{error}; the keys that were known before stay")
        return self._known

    def _read(self) -> dict[str, list[LogKey]]:
        known: dict[str, list[LogKey]] = {}
        for key in [*self._given, *(key for path in self._files for key in _keys_in(path))]:
            known.setdefault(key.name, []).append(key)
        return known

    def _stamps(self) -> list[tuple[int, int]]:
        stamps = []
        for path in self._files:
            try:
                status = os.stat(path)  # noqa: PTH116 - on every request, so cheaply
            except OSError:
                stamps.append((0, 0))
            else:
                stamps.append((status.st_mtime_ns, status.st_ino))
        return stamps


def _is_key(source: str) -> bool:
    return source.count("+") >= 2 and "\n" not in source and not Path(source).exists()  # noqa: PLR2004 - name, id, key


def _key(line: str) -> LogKey:
    try:
        return parse_log_key(line)
    except NoteError as error:
        raise LogKeysError(str(error)) from None


def _keys_in(path: Path) -> list[LogKey]:
    try:
        data = path.read_bytes()
        if data.lstrip().startswith(b"{"):
            return [*load_archive(path).verifiers]
        lines = [line.split() for line in data.decode().splitlines()]
        keys = [
            parse_log_key(words[1] if words[0] == "log" and words[1:] else words[0])
            for words in lines
            if words and not words[0].startswith(("#", "witness", "group", "quorum"))
        ]
    except OSError as error:
        msg = f"{path}: {error.strerror}"
        raise LogKeysError(msg) from None
    except (ArchiveError, NoteError, UnicodeDecodeError) as error:
        msg = f"{path}: {error}"
        raise LogKeysError(msg) from None
    if not keys:
        msg = f"{path}: holds no verifier key"
        raise LogKeysError(msg)
    return keys
