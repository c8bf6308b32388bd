"""Who may open what age sealed: the holder of an X25519 key, or who knows a passphrase."""

import base64
import binascii
import os
from collections.abc import Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from services.cli.backup import bech32

TAG: Final = 16
FILE_KEY: Final = 16
LINE: Final = 64
_X25519 = b"age-encryption.org/v1/X25519"
_SCRYPT = b"age-encryption.org/v1/scrypt"
_RECIPIENT, _IDENTITY = "age", "age-secret-key-"
_WORK = 18
_MOST_WORK = 22
"""2^18 rounds of scrypt take about a second and 256 MiB; a file may ask for 2^22 at most."""


class AgeError(Exception):
    """A key or a sealed file cannot be used; the message is for operators and holds no secret."""


class Stanza:
    """One way into a sealed file.

    Attributes:
        words: its kind and arguments.
        body: the file's key, wrapped.
    """

    def __init__(self, words: Sequence[bytes], body: bytes) -> None:
        """See the class."""
        self.words = list(words)
        self.body = body

    def lines(self) -> bytes:
        """Return it as it stands in a header."""
        text = plain64(self.body)
        rows = [text[start : start + LINE] for start in range(0, len(text) + 1, LINE)]
        return b"-> " + b" ".join(self.words) + b"\n" + b"".join(row + b"\n" for row in rows)


class Recipient(Protocol):
    """Somebody for whom a file is sealed."""

    def wrap(self, file_key: bytes) -> Stanza:
        """Return their way into the file."""
        ...


class Identity(Protocol):
    """Somebody who can open what was sealed for them."""

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Return the file's key; None where the stanza is not for them.

        Raises:
            AgeError: it is for them, and damaged.
        """
        ...


class PublicKey:
    """A recipient: `age1…`.

    Raises:
        AgeError: the text is none.
    """

    def __init__(self, text: str) -> None:
        """See the class."""
        try:
            self._raw = bech32.decode(_RECIPIENT, text.strip())
            self._key = X25519PublicKey.from_public_bytes(self._raw)
        except ValueError as error:
            msg = f"{text.strip()[:70]!r} is no recipient (age1…): {error}"
            raise AgeError(msg) from None

    def wrap(self, file_key: bytes) -> Stanza:
        """Return the way into the file for who holds the private key."""
        ephemeral = X25519PrivateKey.generate()
        share = _raw(ephemeral.public_key())
        key = derive(ephemeral.exchange(self._key), share + self._raw, _X25519)
        body = ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)
        return Stanza((b"X25519", plain64(share)), body)


class SecretKey:
    """An identity: `AGE-SECRET-KEY-1…`.

    Raises:
        AgeError: the text is none.
    """

    def __init__(self, text: str) -> None:
        """See the class."""
        try:
            raw = bech32.decode(_IDENTITY, text.strip())
            self._key = X25519PrivateKey.from_private_bytes(raw)
        except ValueError as error:
            msg = f"that is no identity (AGE-SECRET-KEY-1…): {error}"
            raise AgeError(msg) from None
        self._public = _raw(self._key.public_key())

    @property
    def recipient(self) -> str:
        """The public half, `age1…`."""
        return bech32.encode(_RECIPIENT, self._public)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Return the file's key; None where the stanza is not for this key."""
        if stanza.words[0] != b"X25519":
            return None
        share = unplain64(stanza.words[1]) if len(stanza.words) == 2 else b""  # noqa: PLR2004 - kind, share
        if len(share) != len(self._public) or len(stanza.body) != FILE_KEY + TAG:
            msg = "its header is damaged"
            raise AgeError(msg)
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(share))
            key = derive(shared, share + self._public, _X25519)
            return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
        except (InvalidTag, ValueError):
            return None


class Passphrase:
    """Both recipient and identity: who knows the words.

    Args:
        text: the passphrase.
        work: the logarithm of scrypt's rounds for what is sealed.
    """

    def __init__(self, text: str, *, work: int = _WORK) -> None:
        """See the class."""
        self._text = text.encode()
        self._work = work

    def wrap(self, file_key: bytes) -> Stanza:
        """Return the way into the file for who knows the passphrase."""
        salt = os.urandom(16)
        body = ChaCha20Poly1305(self._key(salt, self._work)).encrypt(bytes(12), file_key, None)
        return Stanza((b"scrypt", plain64(salt), str(self._work).encode()), body)

    def unwrap(self, stanza: Stanza) -> bytes | None:
        """Return the file's key; None where the passphrase is another."""
        if stanza.words[0] != b"scrypt":
            return None
        if len(stanza.words) != 3 or not stanza.words[2].isdigit():  # noqa: PLR2004 - kind, salt, work
            msg = "its header is damaged"
            raise AgeError(msg)
        work = int(stanza.words[2][:3])
        if not 0 < work <= _MOST_WORK or len(stanza.body) != FILE_KEY + TAG:
            msg = f"it asks for 2^{work} rounds of scrypt; 2^{_MOST_WORK} are the most"
            raise AgeError(msg)
        try:
            key = self._key(unplain64(stanza.words[1]), work)
            return ChaCha20Poly1305(key).decrypt(bytes(12), stanza.body, None)
        except InvalidTag:
            return None

    def _key(self, salt: bytes, work: int) -> bytes:
        return Scrypt(salt=_SCRYPT + salt, length=32, n=1 << work, r=8, p=1).derive(self._text)


def generate() -> tuple[str, str]:
    """Return a new identity and its recipient, as texts."""
    key = X25519PrivateKey.generate()
    raw = key.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    text = bech32.encode(_IDENTITY, raw).upper()
    return text, SecretKey(text).recipient


def derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """Return a key that is derived from a secret."""
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def plain64(data: bytes) -> bytes:
    """Return bytes in base64 without padding."""
    return base64.b64encode(data).rstrip(b"=")


def unplain64(text: bytes) -> bytes:
    """Return the bytes of such a text.

    Raises:
        AgeError: it is none.
    """
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        data = b""
    if plain64(data) != text:
        msg = "its header is damaged"
        raise AgeError(msg)
    return data


def _raw(key: X25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
