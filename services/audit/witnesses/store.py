"""The witness's store: one file for each log, replaced atomically, and a lock for one witness.

A file that cannot be read stops the witness: what it signed before must never be forgotten.
"""

import fcntl
import os
import socket
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from services.audit.note import Note, NoteError, parse_note
from services.audit.witnesses.cosignature import Cosigner, CosignerPrivateKey, cosigned_text
from services.common.files import sync_directory

KEY_FILES = ("witness-ed25519.pem", "witness-mldsa44.pem")
NAME_FILE = "name"


class WitnessStoreError(Exception):
    """The directory cannot be used; the message is for operators."""


class FileWitnessStore:
    """Keeps the newest cosigned checkpoint of each log in a file of its own.

    Args:
        directory: made `0700` when it is missing.

    Raises:
        WitnessStoreError: another witness uses it, it is not ours alone, or a file is damaged.
    """

    def __init__(self, directory: Path) -> None:
        """See the class."""
        self.directory = directory.resolve()
        self._logs = self.directory / "logs"
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._logs.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(
                self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            msg = f"{error.filename or directory}: {error.strerror}"
            raise WitnessStoreError(msg) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            msg = f"{directory}: another witness uses it; two on one state would sign forks"
            raise WitnessStoreError(msg) from None
        self._notes = self._read()

    def load(self, origin: str) -> Note | None:
        """Return the newest cosigned checkpoint of a log; None when there never was one."""
        return self._notes.get(origin)

    def save(self, origin: str, note: Note) -> None:
        """Keep a checkpoint, atomically and durably.

        Raises:
            OSError: the disk refuses.
        """
        path = self._logs / sha256(origin.encode()).hexdigest()
        temporary = path.with_suffix(".new")
        _write(temporary, str(note).encode(), os.O_TRUNC)
        temporary.rename(path)
        # From here on it may be what the next start reads, so it is what we hold ourselves to.
        self._notes[origin] = note
        sync_directory(self._logs)

    def close(self) -> None:
        """Give the directory back."""
        os.close(self._lock)

    def _read(self) -> dict[str, Note]:
        notes: dict[str, Note] = {}
        for path in sorted(self._logs.iterdir()):
            if path.suffix == ".new":
                path.unlink()
                continue
            try:
                note = parse_note(path.read_bytes())
                origin = cosigned_text(note).checkpoint.origin
            except (OSError, NoteError) as error:
                msg = f"{path} is damaged: {error}. Without it the witness could sign a fork."
                raise WitnessStoreError(msg) from None
            if path.name != sha256(origin.encode()).hexdigest():
                msg = f"{path} holds a checkpoint of {origin}, whose file it is not"
                raise WitnessStoreError(msg)
            notes[origin] = note
        return notes


def load_or_make_cosigners(directory: Path, name: str = "") -> list[Cosigner]:
    """Return the witness's keys, Ed25519 and ML-DSA-44, made on the first start.

    Args:
        directory: where they lie, `0600`.
        name: the key name; empty for the one of the first start, or this machine's.

    Raises:
        WitnessStoreError: a key is damaged or can be read by others, the name is another one, or
            a key is missing although something was cosigned.
    """
    known = directory / NAME_FILE
    try:
        if known.exists():
            own = known.read_text().strip()
            if name and name != own:
                msg = f"{directory} belongs to the witness {own}; a witness keeps its name"
                raise WitnessStoreError(msg)
        else:
            own = name or f"witness.local/{socket.gethostname()}"
            _make_keys(directory)
            _write(known, f"{own}\n".encode(), os.O_EXCL)
            sync_directory(directory)
        return [Cosigner(own, _load_key(directory / file)) for file in KEY_FILES]
    except NoteError as error:
        raise WitnessStoreError(str(error)) from None
    except OSError as error:
        msg = f"{error.filename or directory}: {error.strerror}"
        raise WitnessStoreError(msg) from None


def _make_keys(directory: Path) -> None:
    """Make both keys; a first start that broke off left no name and begins anew."""
    if any((directory / "logs").iterdir()):
        msg = f"{directory} holds cosigned checkpoints, but not the witness's name: restore it"
        raise WitnessStoreError(msg)
    keys: Iterable[CosignerPrivateKey] = (
        Ed25519PrivateKey.generate(),
        MLDSA44PrivateKey.generate(),
    )
    for file, key in zip(KEY_FILES, keys, strict=True):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(directory / file, pem, os.O_TRUNC)


def _load_key(path: Path) -> CosignerPrivateKey:
    if path.stat().st_mode & 0o077:
        msg = f"{path} can be read by others: chmod 600 it, and think of who has read it"
        raise WitnessStoreError(msg)
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, CosignerPrivateKey):
        msg = f"{path} holds no key of a witness"
        raise WitnessStoreError(msg)
    return key


def _write(path: Path, data: bytes, flags: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
