"""Cosignatures, as C2SP tlog-cosignature defines them: who says that a checkpoint is consistent.

Two kinds are known: Ed25519 (`cosignature/v1`, type `0x04`) and ML-DSA-44 (`subtree/v1`, type
`0x06`). Both carry the time at which they were made.
"""

import base64
import binascii
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from services.audit.checkpoint import Checkpoint, parse_checkpoint
from services.audit.note import Note, NoteError, Signature, valid_name

ED25519_TYPE = b"\x04"
MLDSA_TYPE = b"\x06"
MAX_TIME = 2**63 - 1

_TIME_SIZE = 8
_ED25519_SIZE = 32
_MLDSA_SIZE = 1312
_LABEL = b"subtree/v1\n\x00"
_MAX_NAME = 255

CosignerPublicKey = Ed25519PublicKey | MLDSA44PublicKey
CosignerPrivateKey = Ed25519PrivateKey | MLDSA44PrivateKey


class CosignedText(NamedTuple):
    """What is cosigned: a checkpoint and the text that it stands in."""

    checkpoint: Checkpoint
    text: str


class CosignerKey:
    """The public key of a cosigner under its name.

    Args:
        name: the cosigner's key name.
        public_key: the key itself.

    Raises:
        NoteError: the name cannot be a key name.
    """

    def __init__(self, name: str, public_key: CosignerPublicKey) -> None:
        """See the class."""
        if not valid_name(name):
            msg = f"{name!r} is not a key name: it is empty or has a space, a plus or a control"
            raise NoteError(msg)
        self.name = name
        self.public_key = public_key
        if isinstance(public_key, Ed25519PublicKey):
            self.algorithm = "Ed25519"
            self.encoded = ED25519_TYPE + public_key.public_bytes_raw()
        else:
            self.algorithm = "ML-DSA-44"
            self.encoded = MLDSA_TYPE + public_key.public_bytes_raw()
        self.key_id = sha256(name.encode() + b"\n" + self.encoded).digest()[:4]

    def __str__(self) -> str:
        """Return the verifier key line (vkey)."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self.encoded).decode()}"

    def owns(self, line: Signature) -> bool:
        """Say whether a signature line claims to be this key's."""
        return (line.name, line.key_id) == (self.name, self.key_id)

    def time_of(self, cosigned: CosignedText, signature: bytes) -> int | None:
        """Return when a cosignature was made, a Unix time; None when it is not this key's.

        A time of zero, which an ML-DSA-44 cosignature can have, says nothing about the time.
        """
        time = int.from_bytes(signature[:_TIME_SIZE], "big")
        if len(signature) <= _TIME_SIZE or time > MAX_TIME:
            return None
        try:
            message = _message(self, cosigned, time)
            self.public_key.verify(signature[_TIME_SIZE:], message)
        except (InvalidSignature, ValueError):
            return None
        return time


class Cosigner:
    """Signs checkpoints as a witness.

    Args:
        name: the cosigner's key name.
        key: the private key.
    """

    def __init__(self, name: str, key: CosignerPrivateKey) -> None:
        """See the class."""
        self._key = key
        self.verifier = CosignerKey(name, key.public_key())

    def __repr__(self) -> str:
        """Show the public half."""
        return f"Cosigner({self.verifier.name} {self.verifier.algorithm})"

    def cosign(self, cosigned: CosignedText, time: int) -> Signature:
        """Return the signature line of a checkpoint at a Unix time."""
        made = self._key.sign(_message(self.verifier, cosigned, time))
        blob = time.to_bytes(_TIME_SIZE, "big") + made
        return Signature(self.verifier.name, self.verifier.key_id, blob)


def cosigned_text(note: Note) -> CosignedText:
    """Return what is cosigned of a note. Extension lines are part of it.

    Raises:
        NoteError: the note's text is not a checkpoint.
    """
    lines = note.text.split("\n")
    if not all(lines[3:-1]):
        msg = "the checkpoint has an empty extension line"
        raise NoteError(msg)
    checkpoint = parse_checkpoint("\n".join([*lines[:3], ""]) if lines[3:] else note.text)
    return CosignedText(checkpoint, note.text)


def parse_cosigner_key(line: str) -> CosignerKey:
    """Return the key of a cosigner's verifier key line.

    Raises:
        NoteError: it is not such a line, its type is not a cosigner's, or its id is not its key's.
    """
    name, _, rest = line.partition("+")
    _, separator, blob = rest.partition("+")
    if not separator:
        msg = "a verifier key has the form name+id+key"
        raise NoteError(msg)
    try:
        encoded = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        encoded = b""
    key = CosignerKey(name, _public_key(encoded))
    if str(key) != line:
        msg = f"the verifier key of {name} is not spelt as its key is, or has another's id"
        raise NoteError(msg)
    return key


def _public_key(encoded: bytes) -> CosignerPublicKey:
    kind, material = encoded[:1], encoded[1:]
    if kind == ED25519_TYPE and len(material) == _ED25519_SIZE:
        return Ed25519PublicKey.from_public_bytes(material)
    if kind == MLDSA_TYPE and len(material) == _MLDSA_SIZE:
        return MLDSA44PublicKey.from_public_bytes(material)
    msg = "the verifier key is not a cosigner's: neither Ed25519 (0x04) nor ML-DSA-44 (0x06)"
    raise NoteError(msg)


def _message(key: CosignerKey, cosigned: CosignedText, time: int) -> bytes:
    """Return what a cosigner signs."""
    if isinstance(key.public_key, Ed25519PublicKey):
        return f"cosignature/v1\ntime {time}\n{cosigned.text}".encode()
    checkpoint = cosigned.checkpoint
    return b"".join(
        (
            _LABEL,
            _opaque(key.name),
            time.to_bytes(8, "big"),
            _opaque(checkpoint.origin),
            (0).to_bytes(8, "big"),
            checkpoint.size.to_bytes(8, "big"),
            checkpoint.root,
        )
    )


def _opaque(text: str) -> bytes:
    data = text.encode()
    if len(data) > _MAX_NAME:
        msg = f"{text[:40]!r} is too long to be cosigned"
        raise ValueError(msg)
    return bytes([len(data)]) + data
