"""The private keys that sign checkpoints: made, loaded, checked, never shown.

A key that is weak, encrypted without a passphrase, readable by everybody or not its public key's
other half is refused with a sentence that names the variable.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from services.audit.note import PublicKey, VerifierKey

RSA_FILE = "telemetry_signing_key.pem"
RSA_PUBLIC_FILE = "telemetry_verification_key.pem"
ED25519_FILE = "audit_ed25519_key.pem"
DEFAULT_RSA_BITS = 4096
RSA_SIZES = (2048, 3072, 4096)
_MIN_BITS = 2048
_MIN_BITS_PRODUCTION = 3072
_PUBLIC_EXPONENT = 65537

PrivateKey = rsa.RSAPrivateKey | Ed25519PrivateKey
Key = TypeVar("Key", bound=PrivateKey)


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


def load_rsa(pem: bytes, source: str, *, production: bool) -> rsa.RSAPrivateKey:
    """Return the RSA key of a PEM text.

    Args:
        pem: the text.
        source: the variable or file that it is from, for the message.
        production: refuse under 3072 bits instead of under 2048.

    Raises:
        KeyProblem: it is no such key, encrypted, or too weak.
    """
    key = _load(pem, source)
    if not isinstance(key, rsa.RSAPrivateKey):
        msg = f"{source}: holds no RSA private key."
        raise KeyProblem(msg)
    least = _MIN_BITS_PRODUCTION if production else _MIN_BITS
    if key.key_size < least:
        msg = f"{source}: the RSA key has {key.key_size} bits; at least {least} are needed here."
        raise KeyProblem(msg)
    return key


def load_ed25519(pem: bytes, source: str) -> Ed25519PrivateKey:
    """Return the Ed25519 key of a PEM text.

    Raises:
        KeyProblem: it is no such key, or encrypted.
    """
    key = _load(pem, source)
    if not isinstance(key, Ed25519PrivateKey):
        msg = f"{source}: holds no Ed25519 private key."
        raise KeyProblem(msg)
    return key


def check_pair(private: PrivateKey, public_pem: bytes, source: str) -> None:
    """Refuse a public key that is not the private key's other half.

    Raises:
        KeyProblem: it is not, or no public key.
    """
    if public_key(public_pem, source) != private.public_key():
        msg = f"{source}: is not the public half of the signing key."
        raise KeyProblem(msg)


def public_key(pem: bytes, source: str) -> PublicKey:
    """Return the RSA or Ed25519 public key of a PEM text.

    Raises:
        KeyProblem: it is no such key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, PublicKey):
        msg = f"{source}: holds no RSA or Ed25519 public key in PEM."
        raise KeyProblem(msg)
    return key


def check_file(path: Path, source: str) -> None:
    """Refuse a private key's file that everybody can read.

    Raises:
        KeyProblem: it is, or it is not there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        msg = f"{source}: cannot read {path}: {error.strerror}."
        raise KeyProblem(msg) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        msg = f"{source}: {path} can be read by everybody; `chmod 600` it and replace the key."
        raise KeyProblem(msg)


def generate_rsa(bits: int = DEFAULT_RSA_BITS) -> rsa.RSAPrivateKey:
    """Return a new RSA key; takes up to a few seconds."""
    return rsa.generate_private_key(_PUBLIC_EXPONENT, bits)


def generate_ed25519() -> Ed25519PrivateKey:
    """Return a new Ed25519 key."""
    return Ed25519PrivateKey.generate()


def private_pem(key: PrivateKey) -> bytes:
    """Return a private key in PEM (PKCS#8)."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_private(path: Path, key: PrivateKey) -> None:
    """Write a private key into a new file, `0600` in a directory that is `0700` when made.

    Raises:
        KeyProblem: the file is there already, or cannot be made.
    """
    _write_new(path, private_pem(key), 0o600)


def write_public(path: Path, key: PrivateKey) -> None:
    """Write the public half of a key into a new file, `0644`.

    Raises:
        KeyProblem: the file is there already, or cannot be made.
    """
    _write_new(path, VerifierKey("public", key.public_key()).pem.encode(), 0o644)


def load_or_make_rsa(directory: Path, bits: int = DEFAULT_RSA_BITS) -> rsa.RSAPrivateKey:
    """Return the RSA key of a development machine, made on first use.

    Raises:
        KeyProblem: the file holds something else, or cannot be made.
    """
    path = directory / RSA_FILE
    if not path.exists():
        key = generate_rsa(bits)
        write_private(path, key)
        (directory / RSA_PUBLIC_FILE).unlink(missing_ok=True)
        write_public(directory / RSA_PUBLIC_FILE, key)
    return _load_file(path, lambda pem: load_rsa(pem, str(path), production=False))


def load_or_make_ed25519(directory: Path) -> Ed25519PrivateKey:
    """Return the Ed25519 key of a development machine, made on first use.

    Raises:
        KeyProblem: the file holds something else, or cannot be made.
    """
    path = directory / ED25519_FILE
    if not path.exists():
        write_private(path, generate_ed25519())
    return _load_file(path, lambda pem: load_ed25519(pem, str(path)))


def _load_file(path: Path, load: Callable[[bytes], Key]) -> Key:
    check_file(path, str(path))
    return load(path.read_bytes())


def _load(pem: bytes, source: str) -> object:
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        msg = f"{source}: the key is encrypted, and no passphrase can be given; decrypt it."
        raise KeyProblem(msg) from None
    except ValueError:
        msg = f"{source}: holds no private key in PEM."
        raise KeyProblem(msg) from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        msg = f"{path}: cannot make the key's file: {error.strerror}."
        raise KeyProblem(msg) from None
