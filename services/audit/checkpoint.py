"""Checkpoints, as C2SP tlog-checkpoint defines them: the signed size and root of a log."""

import base64
import binascii
import re
from typing import NamedTuple

from services.audit.merkle import HASH_SIZE
from services.audit.note import Note, NoteError, parse_note

_SIZE = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)
_LINES = 3


class Checkpoint(NamedTuple):
    """What a log says of itself at one size."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


class SignedCheckpoint(NamedTuple):
    """A checkpoint and the note that carries it."""

    checkpoint: Checkpoint
    note: Note


def parse_checkpoint(text: str) -> Checkpoint:
    """Return the checkpoint of a note's text. Extension lines are refused: we write none.

    Raises:
        NoteError: the text is not a checkpoint; the message says which line.
    """
    lines = text.split("\n")
    if len(lines) != _LINES + 1 or lines[-1]:
        msg = f"a checkpoint has {_LINES} lines"
        raise NoteError(msg)
    origin, size, root_text, _ = lines
    if not origin:
        msg = "the checkpoint's first line, its origin, is empty"
        raise NoteError(msg)
    if _SIZE.fullmatch(size) is None:
        msg = f"the checkpoint's second line is not a size: {size[:40]!r}"
        raise NoteError(msg)
    try:
        root = base64.b64decode(root_text, validate=True)
    except (binascii.Error, ValueError):
        root = b""
    if len(root) != HASH_SIZE or base64.b64encode(root).decode() != root_text:
        msg = "the checkpoint's third line is not a SHA-256 hash in base64"
        raise NoteError(msg)
    return Checkpoint(origin, int(size), root)


def parse_signed_checkpoint(data: bytes) -> SignedCheckpoint:
    """Return the checkpoint in a signed note, its signatures not yet verified.

    Raises:
        NoteError: it is not a note, or its text is not a checkpoint.
    """
    note = parse_note(data)
    return SignedCheckpoint(parse_checkpoint(note.text), note)
