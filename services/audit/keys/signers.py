"""The private keys that sign checkpoints: made, loaded from PEM, checked, never shown.

A key that is weak, encrypted without a passphrase, of another kind or not its public key's other
half is refused with a sentence that names the variable. Files are the room of `keyfiles`.
"""

import re
from collections.abc import Sequence
from typing import NoReturn, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from services.audit.note import PublicKey, VerifierKey

DEFAULT_RSA_BITS = 4096
RECOMMENDED_BITS = 4096
RSA_SIZES = (2048, 3072, 4096)
_MIN_BITS = 2048
_MIN_BITS_PRODUCTION = 3072
_PUBLIC_EXPONENT = 65537
_LABEL = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")
_PATH = re.compile(rb"[\w.~/-]*/[\w./-]*", re.ASCII)
_PRIVATE = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*PRIVATE KEY)-----.+?-----END \1-----", re.DOTALL
)

PrivateKey = rsa.RSAPrivateKey | Ed25519PrivateKey
Key = TypeVar("Key", rsa.RSAPrivateKey, Ed25519PrivateKey)


class KeyProblem(Exception):  # noqa: N818 - named for what it is
    """A key cannot be used; the message is for operators and holds nothing of the key."""


class Signer:
    """Signs notes with one private key.

    Args:
        name: the log's origin.
        key: the private key.
    """

    def __init__(self, name: str, key: PrivateKey) -> None:
        """See the class."""
        self._key = key
        self._verifier = VerifierKey(name, key.public_key())

    def __repr__(self) -> str:
        """Show the public half."""
        return f"Signer({self._verifier.algorithm} {self._verifier.fingerprint})"

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return self._verifier

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message; costs 1.5 ms with RSA-4096."""
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, padding.PKCS1v15(), hashes.SHA256())


def load_rsa(
    pem: bytes, source: str, *, production: bool, passphrase: bytes | None = None
) -> rsa.RSAPrivateKey:
    """Return the RSA key of a PEM text.

    Args:
        pem: the text; what stands outside the PEM block is skipped.
        source: the variable or file that it is from, for the message.
        production: refuse under 3072 bits instead of under 2048.
        passphrase: opens an encrypted key.

    Raises:
        KeyProblem: it is no such key, cannot be decrypted, or is too weak.
    """
    key = load_private(pem, source, passphrase)
    if not isinstance(key, rsa.RSAPrivateKey):
        _refuse(source, "holds no RSA private key but one of another kind.")
    least = _MIN_BITS_PRODUCTION if production else _MIN_BITS
    if key.key_size < least:
        why = (
            f"the RSA key has {key.key_size} bits; at least {least} are needed here. "
            f"`weaver keys generate` makes one of {DEFAULT_RSA_BITS}."
        )
        _refuse(source, why)
    return key


def load_ed25519(pem: bytes, source: str, *, passphrase: bytes | None = None) -> Ed25519PrivateKey:
    """Return the Ed25519 key of a PEM text.

    Raises:
        KeyProblem: it is no such key, or cannot be decrypted.
    """
    key = load_private(pem, source, passphrase)
    if not isinstance(key, Ed25519PrivateKey):
        _refuse(source, "holds no Ed25519 private key but one of another kind.")
    return key


def load_private(pem: bytes, source: str, passphrase: bytes | None = None) -> object:
    """Return the private key of a PEM text, of whatever kind.

    Raises:
        KeyProblem: it is none, or cannot be decrypted.
    """
    block = _PRIVATE.search(pem)
    if block is None:
        _refuse(source, _why_not_private(pem))
    if b"OPENSSH" in block[1]:
        why = "holds a key in OpenSSH's format, not in PKCS#8; `ssh-keygen -p -m PKCS8` turns it."
        _refuse(source, why)
    encrypted = is_encrypted(block[0])
    if encrypted and passphrase is None:
        _refuse(source, "the key is encrypted, and no passphrase is set.")
    try:
        return load_pem_private_key(block[0], password=passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = (
            "the passphrase does not open the key, or the key is damaged."
            if encrypted
            else "holds no private key in PEM: what stands between the markers is damaged."
        )
        _refuse(source, why)


def is_encrypted(pem: bytes) -> bool:
    """Say whether the private key of a PEM text needs a passphrase."""
    block = _PRIVATE.search(pem)
    return block is not None and b"ENCRYPTED" in block[0]


def blocks(pem: bytes) -> Sequence[bytes]:
    """Return each private key of a PEM text that may hold several."""
    return [match[0] for match in _PRIVATE.finditer(pem)]


def check_pair(private: PrivateKey, public_pem: bytes, source: str) -> None:
    """Refuse a public key that is not the private key's other half.

    Raises:
        KeyProblem: it is not, or no public key.
    """
    if public_key(public_pem, source) != private.public_key():
        why = (
            "is not the public half of the signing key; `openssl pkey -in KEY -pubout` makes that."
        )
        _refuse(source, why)


def public_key(pem: bytes, source: str) -> PublicKey:
    """Return the RSA or Ed25519 public key of a PEM text.

    Raises:
        KeyProblem: it is no such key.
    """
    if b"PRIVATE KEY-----" in pem:
        _refuse(source, "holds a private key where the public one belongs; replace both.")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, PublicKey):
        _refuse(source, "holds no RSA or Ed25519 public key in PEM.")
    return key


def generate_rsa(bits: int = DEFAULT_RSA_BITS) -> rsa.RSAPrivateKey:
    """Return a new RSA key; takes up to a few seconds."""
    return rsa.generate_private_key(_PUBLIC_EXPONENT, bits)


def generate_ed25519() -> Ed25519PrivateKey:
    """Return a new Ed25519 key."""
    return Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey, passphrase: bytes | None = None) -> bytes:
    """Return a private key in PEM (PKCS#8), encrypted if there is a passphrase."""
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _why_not_private(pem: bytes) -> str:
    label = _LABEL.search(pem.decode("ascii", errors="replace"))
    if not pem.strip():
        return "is empty; a private key in PEM is wanted here."
    if label is None and _PATH.fullmatch(pem.strip()):
        return "holds what looks like a path and no key; the variable for paths ends in _FILE."
    if label is None:
        return "holds no private key: it is not PEM. `openssl pkey -inform DER` turns DER into it."
    if label[1].endswith("PRIVATE KEY"):
        return "holds no whole private key: the PEM text breaks off."
    what = label[1].lower()
    return f"holds no private key but a {what}; the private key is wanted here."


def _refuse(source: str, why: str) -> NoReturn:
    msg = f"{source}: {why}"
    raise KeyProblem(msg) from None
