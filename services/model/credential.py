"""A provider's key: a value, or a file that is read again when it is rotated.

A file that cannot be read any more, or is empty, changes nothing: the last good key stays. What a
key was before stays known, so that an answer that quotes it is cleaned of both.
"""

from collections.abc import Callable
from pathlib import Path

_LONGEST = 16 * 1024


class CredentialError(Exception):
    """There is no key to be had; the message says where it was sought, and never what it is."""


class Credential:
    """One key.

    Args:
        value: the key itself; empty where the provider wants none.
        path: the file that holds it; it is read at once.

    Raises:
        CredentialError: the file cannot be read, or holds no key.
    """

    def __init__(self, value: str = "", path: Path | None = None) -> None:
        """See the class."""
        self.path = path
        self.value = value if path is None else _read(path)
        self._before = ""

    def look(self) -> bool:
        """Read the file again; return whether there is another key now.

        Raises:
            CredentialError: the file cannot be read, or holds no key; the last one stays.
        """
        if self.path is None:
            return False
        value = _read(self.path)
        if value == self.value:
            return False
        self._before, self.value = self.value, value
        return True

    def clean(self, text: bytes) -> bytes:
        """Return what a provider said without the key, or the one before it."""
        for secret in (self.value, self._before):
            if secret:
                text = text.replace(secret.encode(), b"[removed]")
        return text


NO_KEY = Credential()

Header = Callable[[str], tuple[str, str]]
"""Makes a header of a key."""


def bearer(key: str) -> tuple[str, str]:
    """Return the header that OpenAI and most others want."""
    return ("authorization", f"Bearer {key}")


def named(name: str) -> Header:
    """Return what puts the bare key under a name, as Azure (`api-key`) wants it."""
    return lambda key: (name, key)


def is_sendable(key: str) -> bool:
    """Whether a key can stand in a header."""
    return key.isascii() and key.isprintable()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            value = file.read(_LONGEST).decode().strip()
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise CredentialError(msg) from None
    except UnicodeDecodeError:
        msg = f"{path} holds no text"
        raise CredentialError(msg) from None
    if not value:
        msg = f"{path} is empty"
        raise CredentialError(msg)
    if not is_sendable(value):
        msg = f"{path} holds what no header can carry; a key is one line of printable ASCII"
        raise CredentialError(msg)
    return value
