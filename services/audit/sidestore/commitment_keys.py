"""Commitment keys: the random key of each record's commitments, outside the log and erasable.

Without its key a commitment says nothing about its text, so erasing the key erases the content
while the log stays provable. The log is verified without this store.

It is one file: a header that says how many records it has taken, then a slot for each record. A
slot holds a sealed key, nothing, or the mark of an erasure. Erasing overwrites the slot.
"""

import contextlib
import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from struct import Struct

from services.audit.ports import Entry
from services.audit.sidestore.vault import KEY_SIZE, OVERHEAD, Unreadable, Vault
from services.common.files import sync_directory

_MAGIC = b"WEAVKEY2"
_HEADER = Struct(">8sQQI")
_START = 64
_SLOT = KEY_SIZE + OVERHEAD
_EMPTY = bytes(_SLOT)
_ERASED = b"\xff" * _SLOT
_SLOTS_AT_ONCE = 4_096


class Erased(Exception):  # noqa: N818 - named for what happened
    """The key was erased on purpose."""


class DamagedKeys(Exception):  # noqa: N818
    """The file is not a side store, or its header is damaged."""


class CommitmentKeys:
    """Keeps sealed commitment keys by index of their record.

    Args:
        path: the file; made `0600` when it is missing.
        vault: opens the keys; what it gets is sealed already.

    Raises:
        DamagedKeys: the header does not check out.
    """

    def __init__(self, path: Path, vault: Vault) -> None:
        """See the class."""
        self._path = path
        self._vault = vault
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._reapplied = 0
        try:
            self._read_header()
        except DamagedKeys:
            os.close(self._descriptor)
            raise

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        return self._size

    @property
    def reapplied(self) -> int:
        """How many records of the log were searched for erasures that this file must know."""
        return self._reapplied

    def apply(self, first: int, entries: Sequence[Entry]) -> None:
        """Take the keys of records from an index on; records it has taken it leaves alone.

        A key that was erased therefore does not come back when records are replayed.

        Raises:
            OSError: the disk refuses.
        """
        end = first + len(entries)
        start = max(first, self._size)
        if end <= start:
            return
        slots = b"".join(entry.commitment_key or _EMPTY for entry in entries[start - first :])
        with self._lock:
            self._write(slots, _START + start * _SLOT)
            self._write_header(end, self._reapplied)

    def limit(self, size: int) -> None:
        """Let go of what lies beyond the log's end: it belongs to records that are not there.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            if self._size > size:
                os.ftruncate(self._descriptor, _START + size * _SLOT)
                self._write_header(size, min(self._reapplied, size))

    def commitment_key(self, index: int) -> bytes | None:
        """Return the key of a record; None when it has none, or it is lost.

        Raises:
            Erased: it was erased.
            Unreadable: it was changed, or its data key is gone.
        """
        slot = self._slot(index)
        if slot == _ERASED:
            raise Erased
        return None if slot in (_EMPTY, b"") else self._vault.open(slot)

    def erased(self, index: int) -> bool:
        """Return whether the key of a record was erased."""
        return self._slot(index) == _ERASED

    def erase(self, indexes: Iterable[int]) -> int:
        """Overwrite the keys of records, durably; return how many had one.

        Raises:
            OSError: the disk refuses.
        """
        erased = 0
        with self._lock:
            for index in indexes:
                slot = self._slot(index)
                if slot not in (_EMPTY, _ERASED, b""):
                    self._put(_ERASED, _START + index * _SLOT)
                    erased += 1
            if erased:
                os.fdatasync(self._descriptor)
        return erased

    def note_reapplied(self, size: int) -> None:
        """Remember that the erasures in so many records of the log are done here.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            self._write_header(self._size, size)

    def seal_anew(self) -> int:
        """Seal every key with the newest data key, in a new file; return how many were unreadable.

        Raises:
            OSError: the disk refuses; the old file stays.
        """
        lost = 0
        draft = self._path.with_name(f"{self._path.name}.new")
        with self._lock, open(draft, "wb", opener=_private) as file:
            file.write(self._header(self._size, self._reapplied).ljust(_START, b"\0"))
            for start in range(0, self._size, _SLOTS_AT_ONCE):
                count = min(_SLOTS_AT_ONCE, self._size - start)
                data = os.pread(self._descriptor, count * _SLOT, _START + start * _SLOT)
                for offset in range(0, len(data), _SLOT):
                    slot = data[offset : offset + _SLOT]
                    if slot not in (_EMPTY, _ERASED):
                        try:
                            slot = self._vault.seal(self._vault.open(slot))
                        except Unreadable:
                            lost, slot = lost + 1, _EMPTY
                    file.write(slot)
            file.flush()
            os.fsync(file.fileno())
            draft.replace(self._path)
            sync_directory(self._path.parent)
            os.close(self._descriptor)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        return lost

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _slot(self, index: int) -> bytes:
        if not 0 <= index < self._size:
            return b""
        return os.pread(self._descriptor, _SLOT, _START + index * _SLOT)

    def _read_header(self) -> None:
        data = os.pread(self._descriptor, _HEADER.size, 0)
        length = os.fstat(self._descriptor).st_size
        if not data:
            with contextlib.suppress(OSError):  # A full disk: the first records will say so.
                self._write_header(0, 0)
            return
        if len(data) == _HEADER.size:
            magic, size, reapplied, checksum = _HEADER.unpack(data)
            if magic == _MAGIC and checksum == zlib.crc32(data[:-4]):
                # The slots were written before the header that counts them.
                self._size = min(int(size), max(0, length - _START) // _SLOT)
                self._reapplied = int(reapplied)
                return
        msg = f"{self._path} has no intact header"
        raise DamagedKeys(msg)

    @staticmethod
    def _header(size: int, reapplied: int) -> bytes:
        header = _HEADER.pack(_MAGIC, size, reapplied, 0)[:-4]
        return header + zlib.crc32(header).to_bytes(4)

    def _write_header(self, size: int, reapplied: int) -> None:
        self._write(self._header(size, reapplied), 0)
        self._size, self._reapplied = size, reapplied

    def _write(self, data: bytes, offset: int) -> None:
        self._put(data, offset)
        os.fdatasync(self._descriptor)

    def _put(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
