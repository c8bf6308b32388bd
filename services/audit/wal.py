"""The write-ahead log: what is acknowledged lies here first, until tiles hold it.

It is a directory of numbered segments. A segment begins with a header that names the index of its
first record and the seed of its checksums; frames follow, one for each batch, each with a checksum.
A group of frames is written and synchronised as one, and only then acknowledged.

What replay relies on:

- A frame counts whole or not at all, so a batch does.
- Every frame carries the number of records that were durable when it was written. A frame that does
  not check out is the torn end of the last write, unless an intact frame behind it says that more
  was durable: then acknowledged records are damaged, and replay refuses.
- A segment supersedes whatever its predecessor holds at or beyond its own first index: that was
  written by a write that failed, and never acknowledged.
- The seed is random and never leaves the segment, so no bytes that a peer chose to put into a
  record pass for a frame when the frame around them is torn.
- Segments are removed oldest first, but a disk may forget the removals in any order: of segments
  with a gap between them those behind it count; they must begin where the tree ends, or before.

After a failed write or synchronisation the segment is not trusted again: its end is cut off if the
disk allows, and a new segment begins.
"""

import contextlib
import errno
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import msgspec

from services.common.files import sync_directory

_SEGMENT_MAGIC = b"WEAVWAL2"
_SEGMENT_FAMILY = b"WEAVWAL"
_FRAME_MAGIC = b"\xf5WF1"
_SEGMENT_HEADER = Struct(">8sQQII")
_FRAME_HEADER = Struct(">4sIQQI")
_FRAME_CHECKED = Struct(">IQQ")
_SEGMENT_SIZE = 4 << 20
_SEED_BITS = 32

Item = tuple[bytes, bytes | None]
"""An entry and what belongs to it in the side store."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Item])


class DamagedWAL(Exception):  # noqa: N818 - named for what it is
    """Acknowledged records in the write-ahead log cannot be read; the message is for operators."""


class Frame(NamedTuple):
    """A batch as it was written."""

    first_index: int
    durable: int
    items: list[Item]

    @property
    def end(self) -> int:
        """The index after its last record."""
        return self.first_index + len(self.items)


def encode_frame(first_index: int, durable: int, items: Sequence[Item], seed: int) -> bytes:
    """Return a batch as a frame of the segment with a seed."""
    payload = _encoder.encode(items)
    checksum = _checksum(_FRAME_CHECKED.pack(len(payload), first_index, durable), payload, seed)
    return _FRAME_HEADER.pack(_FRAME_MAGIC, len(payload), first_index, durable, checksum) + payload


def decode_frame(data: bytes, offset: int, seed: int) -> tuple[Frame, int] | None:
    """Return the frame at an offset and the offset behind it; None when it does not check out."""
    start = offset + _FRAME_HEADER.size
    if start > len(data):
        return None
    magic, size, first_index, durable, checksum = _FRAME_HEADER.unpack_from(data, offset)
    end = start + size
    if magic != _FRAME_MAGIC or end > len(data):
        return None
    payload = data[start:end]
    if _checksum(_FRAME_CHECKED.pack(size, first_index, durable), payload, seed) != checksum:
        return None
    try:
        return Frame(first_index, durable, _decoder.decode(payload)), end
    except msgspec.DecodeError:
        return None


def _checksum(header: bytes, payload: bytes, seed: int) -> int:
    return zlib.crc32(payload, zlib.crc32(header, seed))


class _Segment(NamedTuple):
    number: int
    base: int
    seed: int
    path: Path


class WriteAheadLog:
    """Appends groups of frames durably; used from one thread at a time.

    Args:
        directory: holds the segments and nothing else.
        segment_size: bytes after which a new segment begins.
    """

    def __init__(self, directory: Path, segment_size: int = _SEGMENT_SIZE) -> None:
        """See the class."""
        self._directory = directory
        self._segment_size = segment_size
        self._segments: list[_Segment] = []
        self._stale: list[Path] = []
        self._descriptor = -1
        self._offset = 0
        self.durable = 0

    @property
    def oldest(self) -> int:
        """The index of the oldest record it holds; 0 when it holds nothing.

        Raises:
            DamagedWAL: a segment cannot be read.
        """
        segments = self._list()
        return segments[0].base if segments else 0

    def replay(self, start: int) -> Iterator[Frame]:
        """Yield, in order and without a gap, the frames that reach beyond an index.

        Afterwards `durable` is the index behind the last record, and `begin` must be called.

        Raises:
            DamagedWAL: acknowledged records are missing or cannot be read.
        """
        self.durable = start
        self._segments = self._list()
        for position, segment in enumerate(self._segments):
            following = self._segments[position + 1 : position + 2]
            bound = following[0].base if following else None
            if segment.base > self.durable:
                msg = (
                    f"{segment.path} begins at record {segment.base}, but the records before it "
                    f"end at {self.durable}: the log or a part of the write-ahead log is missing"
                )
                raise DamagedWAL(msg)
            yield from self._replay_segment(segment, bound)
            if bound is not None and self.durable < bound:
                msg = (
                    f"{segment.path} is damaged at record {self.durable}: records up to {bound} "
                    f"had been acknowledged"
                )
                raise DamagedWAL(msg)

    def begin(self) -> None:
        """Begin a new segment behind what is durable; whatever lies beyond is superseded.

        The segment before gets no more records even when this fails: the header of the new one may
        be on disk already, and would supersede them.

        Raises:
            OSError: the disk refuses; the next commit tries again.
        """
        self._close()
        number = self._segments[-1].number + 1 if self._segments else 1
        path = self._directory / f"{number:012d}.wal"
        seed = secrets.randbits(_SEED_BITS)
        body = _SEGMENT_HEADER.pack(_SEGMENT_MAGIC, number, self.durable, seed, 0)
        header = body[:-4] + zlib.crc32(body[:-4]).to_bytes(4, "big")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, header, 0)
            os.fsync(descriptor)
            sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._offset = len(header)
        self._segments.append(_Segment(number, self.durable, seed, path))

    def commit(self, batches: Sequence[Sequence[Item]]) -> None:
        """Write batches of records behind each other and make them durable together.

        Raises:
            OSError: nothing of them is durable; call `recover` before the next commit.
        """
        if self._descriptor < 0 or self._offset >= self._segment_size:
            self.begin()
        index, seed = self.durable, self._segments[-1].seed
        frames = []
        for items in batches:
            frames.append(encode_frame(index, self.durable, items, seed))
            index += len(items)
        group = b"".join(frames)
        _write_all(self._descriptor, group, self._offset)
        os.fdatasync(self._descriptor)
        self._offset += len(group)
        self.durable = index

    def recover(self) -> None:
        """Leave a segment that failed: cut its end off if possible, begin a new one.

        Raises:
            OSError: the disk still refuses; call it again later.
        """
        if self._descriptor >= 0:
            # Where the end cannot be cut off, the new segment's header supersedes it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._offset)
                os.fsync(self._descriptor)
        self.begin()

    def trim(self, index: int, *, roll: bool = False) -> None:
        """Remove the segments all of whose records lie before an index.

        Args:
            index: records before it are safe elsewhere.
            roll: begin a new segment first if the current one has no other records, so that
                nothing of them stays behind.

        Raises:
            OSError: the disk refuses.
        """
        if roll and index == self.durable and self._segments[-1].base < index:
            self.begin()
        while self._stale:
            self._stale[-1].unlink(missing_ok=True)
            self._stale.pop()
        while len(self._segments) > 1 and self._segments[1].base <= index:
            self._segments[0].path.unlink(missing_ok=True)
            del self._segments[0]

    def close(self) -> None:
        """Close the current segment."""
        self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _list(self) -> list[_Segment]:
        self._stale.clear()
        segments: list[_Segment] = []
        paths = sorted(self._directory.glob("*.wal"))
        for path in paths:
            number = int(path.stem)
            header = _read_header(path, number)
            if header is None:
                if path == paths[-1] and path.stat().st_size <= _SEGMENT_HEADER.size:
                    path.unlink()  # The start broke off here; nothing was written behind it.
                    continue
                raise DamagedWAL(_why_unreadable(path))
            if segments and number != segments[-1].number + 1:
                self._stale += [segment.path for segment in segments]
                segments.clear()
            segments.append(_Segment(number, *header, path))
        return segments

    def _replay_segment(self, segment: _Segment, bound: int | None) -> Iterator[Frame]:
        data = segment.path.read_bytes()
        offset = _SEGMENT_HEADER.size
        while offset >= 0:
            decoded = decode_frame(data, offset, segment.seed)
            if decoded is None:
                offset = data.find(_FRAME_MAGIC, offset + 1)
                continue
            frame, offset = decoded
            if bound is not None and frame.end > bound:
                continue
            if frame.first_index > self.durable:
                if frame.durable > self.durable:
                    msg = (
                        f"{segment.path} is damaged at record {self.durable}, "
                        f"which had been acknowledged"
                    )
                    raise DamagedWAL(msg)
                continue  # It belongs to the write that broke off before it.
            if frame.end > self.durable:
                yield frame
                self.durable = frame.end


def _read_header(path: Path, number: int) -> tuple[int, int] | None:
    """Return the base index and the seed of a segment; None when its header does not check out."""
    with path.open("rb") as file:
        data = file.read(_SEGMENT_HEADER.size)
    if len(data) < _SEGMENT_HEADER.size:
        return None
    magic, own_number, base, seed, checksum = _SEGMENT_HEADER.unpack(data)
    if magic != _SEGMENT_MAGIC or own_number != number or zlib.crc32(data[:-4]) != checksum:
        return None
    return int(base), int(seed)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        if not written:
            raise OSError(errno.EIO, "the disk took nothing")
        view = view[written:]
        offset += written


def _why_unreadable(path: Path) -> str:
    """Say what is wrong with a segment whose header does not check out."""
    with path.open("rb") as file:
        magic = file.read(len(_SEGMENT_MAGIC))
    if magic == _SEGMENT_MAGIC or not magic.startswith(_SEGMENT_FAMILY):
        return f"{path} has no intact header"
    return (
        f"{path} holds records that another version of Weaver wrote ({magic.decode('latin-1')!r}, "
        f"here {_SEGMENT_MAGIC.decode()!r}). Start that version on this log once more and end it "
        f"with SIGTERM, which leaves nothing behind in the write-ahead log; then start this one. "
        f"Nothing was changed."
    )
