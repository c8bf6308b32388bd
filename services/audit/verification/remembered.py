"""What an auditor remembers: the last checkpoint that was accepted of each log.

One small file a log and signing key, in a directory of the auditor's own; each is a checkpoint as
it was signed, good as an argument of `--since`, and as evidence.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.note import MAX_NOTE_SIZE, NoteError, VerifierKey
from services.audit.verification.inventory import read_regular
from services.common.files import sync_directory

_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")
_LONGEST_NAME = 100


class Remembered:
    """The checkpoints in a directory.

    Args:
        directory: made when the first is remembered.
    """

    def __init__(self, directory: Path) -> None:
        """See the class."""
        self._directory = directory

    def path(self, key: VerifierKey) -> Path:
        """Return where the last checkpoint by a key lies."""
        name = _UNSAFE.sub("_", key.name)[:_LONGEST_NAME]
        return self._directory / f"{name}-{key.fingerprint[:16]}.checkpoint"

    def recall(self, keys: Iterable[VerifierKey]) -> list[SignedCheckpoint]:
        """Return what was accepted of these keys, each checkpoint once, the smallest first.

        Raises:
            NoteError: a file is damaged; the message names it.
        """
        found: dict[str, SignedCheckpoint] = {}
        for key in keys:
            path = self.path(key)
            try:
                signed = parse_signed_checkpoint(read_regular(path, MAX_NOTE_SIZE))
            except FileNotFoundError:
                continue
            except (OSError, NoteError) as error:
                raise NoteError(f"{path}: {error}") from None
            if signed.checkpoint.origin != key.name:
                raise NoteError(f"{path}: it is of another log, {signed.checkpoint.origin}")
            found[str(signed.note)] = signed
        return sorted(found.values(), key=lambda signed: signed.checkpoint.size)

    def accept(self, signed: SignedCheckpoint, keys: Iterable[VerifierKey]) -> None:
        """Remember a checkpoint for each of these keys that signed it.

        Raises:
            OSError: the disk refuses.
        """
        lines = {(line.name, line.key_id) for line in signed.note.signatures}
        for key in keys:
            if (key.name, key.key_id) in lines and key.name == signed.checkpoint.origin:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                path = self.path(key)
                temporary = path.with_name(f".{path.name}.{os.getpid()}")
                with temporary.open("wb") as file:
                    file.write(str(signed.note).encode())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
                sync_directory(self._directory)
