"""Public keys in files: a directory of `<kid>.pem`, a JWKS file, or a PEM file, followed."""

import asyncio
from pathlib import Path
from typing import Final

from services.common import operator_file
from services.common.operator_file import Lookout, OperatorFileError
from services.gateway import key_ring
from services.gateway.jwks import Observer
from services.gateway.jws import MAX_TEXT
from services.gateway.key_ring import MOST_KEYS, KeyRing
from services.gateway.strict_json import NotStrictError, read_object
from services.gateway.verification_keys import KeyRefused, VerificationKey, from_pem

SOURCE: Final = "files"


class KeyFiles:
    """Keeps the keys of files in a ring. Bad files change nothing and are visible.

    Args:
        path: the directory or file.
        ring: where the keys go.
        observer: is told of changes and of bad files.
    """

    def __init__(self, path: Path, ring: KeyRing, observer: Observer) -> None:
        """See the class."""
        self._path = path
        self._ring = ring
        self._observer = observer
        self._version = ""
        self._problem = ""
        self._lookout = Lookout(self.look)

    def first(self) -> None:
        """Read the keys for the first time.

        Raises:
            KeyRefused: they cannot be read, or are none.
        """
        keys = read(self._path)
        self._version = key_ring.version(keys)
        self._ring.put(SOURCE, keys)
        self._observer.keys_read(SOURCE, "", "", self._version)

    def start(self) -> None:
        """Begin to follow the files."""
        self._lookout.start()

    async def close(self) -> None:
        """Stop following."""
        await self._lookout.close()

    async def look(self) -> None:
        """Read the keys once and adopt what is new."""
        before, problem = self._version, ""
        try:
            keys = await asyncio.to_thread(read, self._path)
        except KeyRefused as refused:
            problem = str(refused)
        else:
            self._version = key_ring.version(keys)
            if self._version != before:
                self._ring.put(SOURCE, keys)
        if problem != self._problem or self._version != before:
            self._observer.keys_read(SOURCE, problem, before, self._version)
        self._problem = problem


def read(path: Path) -> tuple[VerificationKey, ...]:
    """Return the keys at a path.

    Raises:
        KeyRefused: they cannot be read, or are none; the message names the file.
    """
    if not path.is_dir():
        return _read_file(path, "")
    # What a mounted secret keeps behind its links begins with a dot.
    files = sorted(file for file in path.glob("*.pem") if not file.name.startswith("."))
    if not 0 < len(files) <= MOST_KEYS:
        msg = f"{path} must hold from 1 to {MOST_KEYS} files named <kid>.pem, not {len(files)}"
        raise KeyRefused(msg)
    return tuple(key for file in files for key in _read_file(file, file.stem))


def _read_file(path: Path, key_id: str) -> tuple[VerificationKey, ...]:
    try:
        return _keys(operator_file.read(path), key_id)
    except OperatorFileError as error:
        raise KeyRefused(str(error)) from None
    except (KeyRefused, NotStrictError) as error:
        msg = f"{path}: {error}"
        raise KeyRefused(msg) from None


def _keys(text: bytes, key_id: str) -> tuple[VerificationKey, ...]:
    if len(key_id) > MAX_TEXT or not key_id.isprintable():
        msg = f"has a name that no `kid` could be: at most {MAX_TEXT} printable characters"
        raise KeyRefused(msg)
    if key_id or not text.lstrip().startswith(b"{"):
        return from_pem(text, key_id)
    keys, problems = key_ring.read_jwks(read_object(text))
    if problems:
        raise KeyRefused("; ".join(problems[:3]))
    return keys
