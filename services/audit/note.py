"""Signed notes, as C2SP signed-note defines them: a text and the lines of those who signed it.

Two kinds of signatures are known: Ed25519 (type `0x01`) and RSA PKCS#1 v1.5 with SHA-256 (type
`0xff` and its long name). A signature by anybody else is kept as it is and never believed.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

ED25519_TYPE = b"\x01"
RSA_TYPE = b"\xffPKIX-RSA-PKCS#1v1.5"
MAX_NOTE_SIZE = 64 * 1024
MAX_SIGNATURES = 32

_DASH = "— "
_KEY_ID_SIZE = 4
_ED25519_SIZE = 32
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]+")

PublicKey = RSAPublicKey | Ed25519PublicKey
Algorithm = Literal["RSA", "Ed25519"]


class NoteError(ValueError):
    """A note or key that is not spelt as its specification says; the message says where."""


class Signature(NamedTuple):
    """One signature line."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line, with its end."""
        blob = base64.b64encode(self.key_id + self.signature).decode()
        return f"{_DASH}{self.name} {blob}\n"


class Note(NamedTuple):
    """A text, its final newline included, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        """Return the note as it lies in a file."""
        return self.text + "\n" + "".join(signature.line for signature in self.signatures)


class NoteSigner(Protocol):
    """Signs notes under a name."""

    @property
    def verifier(self) -> "VerifierKey":
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        ...


class VerifierKey:
    """A public key under a name.

    Args:
        name: whose key it is; for a log, its origin.
        public_key: the key itself.
    """

    def __init__(self, name: str, public_key: PublicKey) -> None:
        """See the class."""
        if not valid_name(name):
            msg = f"{name!r} is not a key name: it is empty or has a space, a plus or a control"
            raise NoteError(msg)
        self.name = name
        self.public_key = public_key
        if isinstance(public_key, RSAPublicKey):
            self.algorithm: Algorithm = "RSA"
            self._encoded = RSA_TYPE + public_key.public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )
        else:
            self.algorithm = "Ed25519"
            self._encoded = ED25519_TYPE + public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.key_id = sha256(name.encode() + b"\n" + self._encoded).digest()[:_KEY_ID_SIZE]

    def __str__(self) -> str:
        """Return the verifier key line (vkey)."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(self._encoded).decode()}"

    def __eq__(self, other: object) -> bool:
        """Compare by name and key."""
        return isinstance(other, VerifierKey) and str(self) == str(other)

    def __hash__(self) -> int:
        """Hash by name and key."""
        return hash(str(self))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hexadecimal."""
        der = self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(der).hexdigest()

    @property
    def pem(self) -> str:
        """The public key in PEM."""
        return self.public_key.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).decode()

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Say whether a signature of a message is this key's."""
        try:
            if isinstance(self.public_key, RSAPublicKey):
                self.public_key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
            else:
                self.public_key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def parse_verifier_key(line: str) -> VerifierKey:
    """Return the key of a verifier key line.

    Raises:
        NoteError: it is not such a line, its type is unknown, or its key id is not its key's.
    """
    parts = line.split("+", 2)
    if len(parts) != 3:  # noqa: PLR2004 - name, id and key
        msg = "a verifier key has the form name+id+key"
        raise NoteError(msg)
    encoded = _decode(parts[2], "a verifier key")
    key = VerifierKey(parts[0], _public_key(encoded))
    if str(key) != line:
        msg = f"the verifier key of {parts[0]} has the id {parts[1]}, not its key's"
        raise NoteError(msg)
    return key


def valid_name(name: str) -> bool:
    """Say whether a name can be a key name."""
    return _NAME.fullmatch(name) is not None


def sign_note(text: str, signers: Sequence[NoteSigner]) -> Note:
    """Return a text signed by each signer, in their order."""
    message = text.encode()
    return Note(
        text,
        tuple(
            Signature(signer.verifier.name, signer.verifier.key_id, signer.sign(message))
            for signer in signers
        ),
    )


def parse_note(data: bytes) -> Note:
    """Return a note, spelt back to exactly these bytes.

    Raises:
        NoteError: it is not a note; the message says which line.
    """
    if len(data) > MAX_NOTE_SIZE:
        msg = f"a note of {len(data)} bytes is too long"
        raise NoteError(msg)
    try:
        content = data.decode()
    except UnicodeDecodeError:
        msg = "the note is not UTF-8"
        raise NoteError(msg) from None
    if any(character < " " and character != "\n" for character in content):
        msg = "the note has a control character"
        raise NoteError(msg)
    text, separator, tail = content.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        msg = "the note has no signatures after an empty line, or no final line end"
        raise NoteError(msg)
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        msg = f"the note has over {MAX_SIGNATURES} signatures"
        raise NoteError(msg)
    note = Note(text + "\n", tuple(_parse_signature(line) for line in lines))
    if str(note) != content:
        msg = "the note is not spelt as notes are"
        raise NoteError(msg)
    return note


def _parse_signature(line: str) -> Signature:
    name, _, blob = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not valid_name(name):
        msg = f"not a signature line: {line[:80]!r}"
        raise NoteError(msg)
    decoded = _decode(blob, "a signature line")
    if len(decoded) <= _KEY_ID_SIZE:
        msg = f"the signature line of {name} is too short"
        raise NoteError(msg)
    return Signature(name, decoded[:_KEY_ID_SIZE], decoded[_KEY_ID_SIZE:])


def _public_key(encoded: bytes) -> PublicKey:
    if encoded.startswith(RSA_TYPE):
        try:
            key = load_der_public_key(encoded[len(RSA_TYPE) :])
        except ValueError:
            key = None
        if isinstance(key, RSAPublicKey):
            return key
        msg = "the RSA verifier key holds no RSA key"
        raise NoteError(msg)
    if encoded.startswith(ED25519_TYPE) and len(encoded) == 1 + _ED25519_SIZE:
        return Ed25519PublicKey.from_public_bytes(encoded[1:])
    msg = "the type of the verifier key is unknown"
    raise NoteError(msg)


def _decode(text: str, where: str) -> bytes:
    """Decode base64 in its one canonical spelling."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if not decoded or base64.b64encode(decoded).decode() != text:
        msg = f"{where} has bad base64"
        raise NoteError(msg)
    return decoded
