"""The vault: seals what the side store holds, under keys that a key of the operator's unlocks.

The operator's key (`WEAVER_AUDIT_STORE_KEY`) seals data keys, which lie in the keyring; a data key
seals the rest with AES-256-GCM. A new operator's key brings a new data key, and everything is
sealed anew: then no copy of the old files, wherever it lies, can be read without the old key.

A sealed value begins with the number of its data key, so that values under an old and a new one can
lie side by side until the old one is retired.
"""

import base64
import binascii
import hmac
import os
import secrets
from collections import deque
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.audit.layout import make_directory
from services.common.files import replace_file

KEY_SIZE: Final = 32
OVERHEAD: Final = 4 + 12 + 16
"""What sealing adds: the data key's number, the nonce, the tag."""
_NONCE = 12
_NUMBER = 4
_NONCES_AT_ONCE = 64
_MOST = 2**32 - 1


class VaultError(Exception):
    """The keyring cannot be used; the message is for operators."""


class WrongKey(VaultError):  # noqa: N818 - named for what it is
    """The keyring is locked with another operator's key."""


class Unreadable(Exception):  # noqa: N818
    """A sealed value was changed, or its data key is gone."""


class _Keyring(msgspec.Struct):
    version: int
    key_id: str
    data_keys: dict[str, str]
    newest: str


class Vault:
    """Seals and opens; safe to use from several threads.

    Args:
        path: the keyring; made `0600` when it is missing.
        origin: the log's name; another log's keyring is refused.
        key: the operator's key, 32 bytes.
        previous: the operator's key before it; a keyring under it gets a new data key.

    Raises:
        WrongKey: the keyring is locked with neither key.
        VaultError: the keyring is damaged, or another log's.
    """

    def __init__(self, path: Path, origin: str, key: bytes, previous: bytes | None = None) -> None:
        """See the class."""
        self._path = path
        self._origin = origin.encode()
        self._key = key
        self._keys: dict[bytes, bytes] = {}
        self._newest = b""
        self._nonces: deque[bytes] = deque()
        self.made = not path.exists()
        if self.made:
            self._turn()
        elif not self._read(key):
            if previous is None or not self._read(previous):
                msg = (
                    f"WEAVER_AUDIT_STORE_KEY: {path} is locked with another key. Set that key, or "
                    f"set it as WEAVER_AUDIT_STORE_KEY_PREVIOUS to replace it. To begin with an "
                    f"empty side store, move {path.parent} away: the log still verifies."
                )
                raise WrongKey(msg)
            self._turn()
        self._use()

    @property
    def turning(self) -> bool:
        """Whether values may still lie under an old data key."""
        return len(self._keys) > 1

    def seal(self, data: bytes, bound: bytes | None = None) -> bytes:
        """Return a value sealed; `bound` must be given again to open it."""
        try:
            nonce = self._nonces.popleft()
        except IndexError:
            drawn = os.urandom(_NONCE * _NONCES_AT_ONCE)
            self._nonces.extend(drawn[i : i + _NONCE] for i in range(_NONCE, len(drawn), _NONCE))
            nonce = drawn[:_NONCE]
        return self._newest + nonce + self._cipher.encrypt(nonce, data, bound)

    def open(self, sealed: bytes, bound: bytes | None = None) -> bytes:
        """Return what was sealed.

        Raises:
            Unreadable: it was changed, or its data key is gone.
        """
        cipher = self._ciphers.get(sealed[:_NUMBER])
        if cipher is None:
            msg = "it is sealed with a key that is gone"
            raise Unreadable(msg)
        try:
            return cipher.decrypt(sealed[_NUMBER : _NUMBER + _NONCE], sealed[16:], bound)
        except (InvalidTag, ValueError):
            msg = "it was changed"
            raise Unreadable(msg) from None

    def current(self, sealed: bytes) -> bool:
        """Return whether a value is sealed with the newest data key."""
        return sealed[:_NUMBER] == self._newest

    def digest(self, data: bytes) -> bytes:
        """Return a name for a value that says nothing without the vault."""
        return hmac.digest(self._lookup, data, "sha256")

    def retire(self) -> None:
        """Forget the old data keys: everything has been sealed anew.

        Raises:
            OSError: the disk refuses.
        """
        self._keys = {self._newest: self._keys[self._newest]}
        self._write()
        self._use()

    def _turn(self) -> None:
        """Draw a new data key, and lock the keyring with the operator's key."""
        number = b""
        while not number or number in self._keys:
            number = (1 + secrets.randbelow(_MOST - 1)).to_bytes(_NUMBER)
        self._keys[number] = secrets.token_bytes(KEY_SIZE)
        self._newest = number
        self._write()

    def _use(self) -> None:
        self._ciphers = {number: AESGCM(key) for number, key in self._keys.items()}
        self._cipher = self._ciphers[self._newest]
        self._lookup = hmac.digest(self._keys[self._newest], b"weaver lookup", "sha256")

    def _read(self, key: bytes) -> bool:
        """Unlock the keyring; say whether this key is the one.

        Raises:
            VaultError: it is damaged, or another log's.
        """
        damaged = f"{self._path} is damaged, or another log's"
        try:
            ring = msgspec.json.decode(self._path.read_bytes(), type=_Keyring)
            if ring.key_id != _key_id(key):
                return False
            cipher = AESGCM(key)
            for name, text in ring.data_keys.items():
                number, sealed = bytes.fromhex(name), base64.b64decode(text, validate=True)
                bound = number + self._origin
                self._keys[number] = cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
            self._newest = bytes.fromhex(ring.newest)
        except (msgspec.DecodeError, binascii.Error, ValueError, InvalidTag):
            raise VaultError(damaged) from None
        if self._newest not in self._keys or len(self._newest) != _NUMBER:
            raise VaultError(damaged)
        return True

    def _write(self) -> None:
        cipher = AESGCM(self._key)
        sealed = {}
        for number, key in self._keys.items():
            nonce = os.urandom(_NONCE)
            text = nonce + cipher.encrypt(nonce, key, number + self._origin)
            sealed[number.hex()] = base64.b64encode(text).decode()
        ring = _Keyring(1, _key_id(self._key), sealed, self._newest.hex())
        replace_file(self._path, msgspec.json.encode(ring) + b"\n")


def parse_key(text: str, variable: str) -> bytes:
    """Return an operator's key: 32 bytes as 64 hexadecimal digits or in base64.

    Raises:
        VaultError: it is neither; the message names the variable and never its value.
    """
    text = text.strip()
    for decode in (bytes.fromhex, _base64):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == KEY_SIZE:
            return key
    msg = (
        f"{variable}: must be 32 random bytes, as 64 hexadecimal digits or in base64; "
        f"`openssl rand -hex 32` makes one."
    )
    raise VaultError(msg)


def load_or_make_key(path: Path) -> bytes:
    """Return the operator's key of a development environment, made on first use.

    Raises:
        VaultError: the file holds no key.
        OSError: the disk refuses.
    """
    make_directory(path.parent, 0o700)
    if not path.exists():
        replace_file(path, secrets.token_hex(KEY_SIZE).encode() + b"\n")
    return parse_key(path.read_text(), str(path))


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _key_id(key: bytes) -> str:
    """Return what tells operators' keys apart and says nothing else of them."""
    return sha256(b"weaver store key\0" + key).hexdigest()[:16]
