"""The side store: the random key of each record's commitments, outside the log and erasable.

Without its key a commitment says nothing about its text, so erasing the key erases the content
while the log stays provable. The log is verified without this store.

It is one file: a header that says how many records it has taken, then 32 bytes for each record,
zeros where there is no key or no longer one.
"""

import os
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

from services.audit.ports import Entry

_MAGIC = b"WEAVKEY1"
_HEADER = Struct(">8sQI")
_START = 64
_SLOT = 32
_EMPTY = bytes(_SLOT)


class SideStore:
    """Keeps commitment keys by index of their record.

    Args:
        path: the file; made `0600` when it is missing.
    """

    def __init__(self, path: Path) -> None:
        """See the class."""
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._read_size()

    @property
    def size(self) -> int:
        """How many records of the log it has taken."""
        return self._size

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
            header = _HEADER.pack(_MAGIC, end, 0)[:-4]
            self._write(header + zlib.crc32(header).to_bytes(4, "big"), 0)
            self._size = end

    def commitment_key(self, index: int) -> bytes | None:
        """Return the key of a record; None when it has none, or it was erased."""
        if not 0 <= index < self._size:
            return None
        slot = os.pread(self._descriptor, _SLOT, _START + index * _SLOT)
        return None if slot in (_EMPTY, b"") else slot

    def erase(self, index: int) -> bool:
        """Overwrite the key of a record; say whether there was one.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            if self.commitment_key(index) is None:
                return False
            self._write(_EMPTY, _START + index * _SLOT)
            return True

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _read_size(self) -> int:
        data = os.pread(self._descriptor, _HEADER.size, 0)
        if len(data) == _HEADER.size:
            magic, size, checksum = _HEADER.unpack(data)
            if magic == _MAGIC and checksum == zlib.crc32(data[:-4]):
                return int(size)
        # Without a header that checks out, what is there was written whole slot by slot.
        return max(0, os.fstat(self._descriptor).st_size - _START) // _SLOT

    def _write(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view = view[written:]
            offset += written
        os.fdatasync(self._descriptor)
