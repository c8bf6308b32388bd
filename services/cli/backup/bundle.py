"""What a backup of keys or of the side store consists of: an uncompressed tar, made in memory.

Private keys are read, packed and sealed without ever lying unsealed on a disk. Unpacking refuses
whatever is not a plain file of a plain name.
"""

import io
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from services.audit.keys.files import ED25519_FILE, RSA_FILE, RSA_PUBLIC_FILE, previous_file
from services.audit.keys.first_use import FILE as FIRST_USED
from services.audit.keys.source import KeySource, Value
from services.audit.layout import Layout
from services.audit.settings import AuditSettings
from services.audit.sidestore.wiring import KEY_FILE, KEY_VARIABLE
from services.cli.keys.options import key_sources
from services.common.files import replace_file

ARCHIVE: Final = "log.keys"
_FILES = {"RSA": RSA_FILE, "Ed25519": ED25519_FILE}
_PIECE = 1024 * 1024
_DATABASES = ("callers.db", "texts.db")
_PLAIN = ("keyring", "commitment-keys")


class BundleError(Exception):
    """There is nothing to back up, or what came back is no bundle; the message is for operators."""


def key_files(settings: AuditSettings, layout: Layout) -> dict[str, bytes]:
    """Return what a backup of the keys holds: private and public keys, and who ever signed.

    Raises:
        KeyProblem: a key cannot be read, or others can read it.
        BundleError: there is no private key.
    """
    found: dict[str, bytes] = {}
    for source in key_sources(settings):
        found |= _of_source(source)
    store_key = _store_key(settings).read()
    if store_key:
        found[KEY_FILE] = store_key
    if not any(name in found for name in _FILES.values()):
        msg = "there is no signing key where the settings say; `weaver keys check` says more"
        raise BundleError(msg)
    for name, path in ((ARCHIVE, layout.keys), (FIRST_USED, settings.keys_path / FIRST_USED)):
        if path.is_file():
            found[name] = path.read_bytes()
    return found


def pack(files: Mapping[str, bytes]) -> Iterator[bytes]:
    """Return files as a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o600
            tar.addfile(member, io.BytesIO(data))
    yield packed.getvalue()


def unpack(data: Iterator[bytes]) -> dict[str, bytes]:
    """Return the files of a tar of keys.

    Raises:
        BundleError: it is none.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(data)), mode="r:") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                if not member.isreg() or "/" in member.name or opened is None:
                    msg = f"{member.name!r} has no place in a backup of keys"
                    raise BundleError(msg)
                files[member.name] = opened.read()
    except tarfile.TarError as error:
        msg = f"it is no backup of keys: {error}"
        raise BundleError(msg) from None
    return files


def side_store(directory: Path) -> Iterator[bytes]:
    """Return the side store as a tar, whole and consistent while its service writes it.

    Texts and callers are copied by SQLite, before the commitment keys that open them.

    Raises:
        BundleError: there is no side store.
        OSError: the disk refuses.
    """
    if not (directory / "keyring").is_file():
        msg = f"there is no side store in {directory}"
        raise BundleError(msg)
    for name in _DATABASES:
        if (directory / name).is_file():
            # The service removes a draft that a killed run leaves here when it starts.
            draft = directory / f"backup-{name}.new"
            try:
                _copy_database(directory / name, draft)
                yield from _member(draft, name)
            finally:
                draft.unlink(missing_ok=True)
    for name in _PLAIN:
        if (directory / name).is_file():
            yield from _member(directory / name, name)
    yield bytes(2 * tarfile.BLOCKSIZE)


def put_side_store(data: Iterator[bytes], place: Path) -> list[str]:
    """Unpack a side store into a directory that is there and empty; return the names.

    Raises:
        BundleError: it is none.
        OSError: the disk refuses.
    """
    names: list[str] = []
    try:
        with tarfile.open(fileobj=_Reader(data), mode="r|") as tar:
            for member in tar:
                opened = tar.extractfile(member)
                if not member.isreg() or member.name not in {*_DATABASES, *_PLAIN} or not opened:
                    msg = f"{member.name!r} has no place in a side store"
                    raise BundleError(msg)
                path = place / member.name
                path.touch(0o600)
                with path.open("wb") as file:
                    while piece := opened.read(_PIECE):
                        file.write(piece)
                names.append(member.name)
    except tarfile.TarError as error:
        msg = f"it is no backup of a side store: {error}"
        raise BundleError(msg) from None
    for _ in data:  # What vouches for the whole comes at its end.
        pass
    if "keyring" not in names:
        msg = "it is no backup of a side store: its keyring is missing"
        raise BundleError(msg)
    return names


def put_keys(files: Mapping[str, bytes], directory: Path) -> None:
    """Write keys into a directory, private ones for their owner alone; replaces nothing.

    Raises:
        BundleError: one is there already.
        OSError: the disk refuses.
    """
    for name in files:
        if (directory / name).exists():
            msg = f"{directory / name} is there already; nothing was restored"
            raise BundleError(msg)
    directory.mkdir(0o700, parents=True, exist_ok=True)
    for name, data in files.items():
        replace_file(directory / name, data)
        if name in {RSA_PUBLIC_FILE, ARCHIVE}:
            (directory / name).chmod(0o644)


class _Reader(io.RawIOBase):
    """Pieces as a file that is read forward only."""

    def __init__(self, data: Iterator[bytes]) -> None:
        self._data = data
        self._held = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._held) < size:
            piece = next(self._data, None)
            if piece is None:
                break
            self._held += piece
        end = len(self._held) if size < 0 else size
        found, self._held = self._held[:end], self._held[end:]
        return found


def _of_source(source: KeySource) -> dict[str, bytes]:
    name = _FILES[source.algorithm]
    wanted = {name: source.private, str(previous_file(Path(name))): source.previous}
    if source.algorithm == "RSA":
        wanted[RSA_PUBLIC_FILE] = source.public
    found: dict[str, bytes] = {}
    for file, value in wanted.items():
        if value is None or (value.path is not None and not value.path.exists()):
            continue
        data = value.read()
        if data:
            found[file] = data
    return found


def _store_key(settings: AuditSettings) -> Value:
    if settings.store_key_file is not None:
        return Value(f"{KEY_VARIABLE}_FILE", path=settings.store_key_file)
    if settings.store_key is not None:
        return Value(KEY_VARIABLE, text=settings.store_key.get_secret_value().encode())
    made = settings.keys_path / KEY_FILE
    return Value(str(made), path=made, optional=True)


def _copy_database(source: Path, draft: Path) -> None:
    draft.unlink(missing_ok=True)
    draft.touch(0o600)
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as live,
        closing(sqlite3.connect(draft)) as copy,
    ):
        live.backup(copy, pages=256)


def _member(path: Path, name: str) -> Iterator[bytes]:
    """Return one file as it stands in a tar; what grows meanwhile is cut at its size now."""
    with path.open("rb") as file:
        member = tarfile.TarInfo(name)
        member.size, member.mode = path.stat().st_size, 0o600
        yield member.tobuf(tarfile.GNU_FORMAT)
        left = member.size
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                msg = f"{path} shrank while it was copied; run it again"
                raise BundleError(msg)
            left -= len(piece)
            yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)
