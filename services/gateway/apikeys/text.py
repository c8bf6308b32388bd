"""How a managed key is written: `wv_<12 characters>_<38 characters>`, letters and digits.

The first part is the key's id. The second is a secret of 32 characters (190 bits) and a checksum of
6, a CRC-32 of everything before it in base 62. So a scanner knows a key when it sees one, and a key
that was cut or mistyped is told from a forged one without asking anybody. The checksum is no
secret: whoever forges a key can write one that fits.
"""

import binascii
import re
import secrets
from typing import Final

import msgspec

PREFIX: Final = "wv_"
PATTERN: Final = r"wv_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}"
"""A regular expression for scanners."""
ID_PREFIX: Final = "key_"
ID_PATTERN: Final = r"key_[0-9A-Za-z]{12}"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LETTERS: Final = 12
_SECRET_LETTERS: Final = 32
_CHECKSUM_LETTERS: Final = 6
LENGTH: Final = len(PREFIX) + _ID_LETTERS + 1 + _SECRET_LETTERS + _CHECKSUM_LETTERS
_KEY: Final = re.compile(PATTERN, re.ASCII)
_ID: Final = re.compile(ID_PATTERN, re.ASCII)


class MistypedKey(Exception):  # noqa: N818 - what happened to the key
    """A text that begins like a managed key and is none; the message says why, and not what."""


class Made(msgspec.Struct, frozen=True):
    """A new key: its id, and its text, which is shown once."""

    id: str
    text: str

    def __repr__(self) -> str:
        """Name the key, never its text."""
        return f"Made({self.id})"


def make(id_: str | None = None) -> Made:
    """Make a key, or another secret for one that there is."""
    id_ = ID_PREFIX + _random(_ID_LETTERS) if id_ is None else id_
    body = f"{PREFIX}{id_.removeprefix(ID_PREFIX)}_{_random(_SECRET_LETTERS)}"
    return Made(id_, body + _checksum(body))


def looks_managed(text: str) -> bool:
    """Say whether a credential is written like a managed key, well or badly."""
    return text.startswith(PREFIX)


def is_id(text: str) -> bool:
    """Say whether a text could be the id of a managed key."""
    return _ID.fullmatch(text) is not None


def id_of(text: str) -> str:
    """Return the id that a key's text names.

    Raises:
        MistypedKey: it is no whole key, or its checksum is another.
    """
    if _KEY.fullmatch(text) is None:
        if len(text) != LENGTH:
            msg = f"it has {len(text)} characters, and a key has {LENGTH}"
            raise MistypedKey(msg)
        msg = "it has characters that a key does not have"
        raise MistypedKey(msg)
    if _checksum(text[:-_CHECKSUM_LETTERS]) != text[-_CHECKSUM_LETTERS:]:
        msg = "its checksum does not fit"
        raise MistypedKey(msg)
    start = len(PREFIX)
    return ID_PREFIX + text[start : start + _ID_LETTERS]


def _random(letters: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(letters))


def _checksum(body: str) -> str:
    value, letters = binascii.crc32(body.encode("ascii")), ""
    for _ in range(_CHECKSUM_LETTERS):
        value, digit = divmod(value, len(_ALPHABET))
        letters = _ALPHABET[digit] + letters
    return letters
