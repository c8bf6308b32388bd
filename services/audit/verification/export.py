"""Exports of records for an auditor: JSON Lines, and a manifest that ties them to a checkpoint.

An export of the whole log is proven by the root that its records have; in any other each line
carries the inclusion proof of its record. The manifest holds the hash of the file and the signed
checkpoint. Nothing is left half done: the file gets its name when it is whole, the manifest last.
"""

import base64
import binascii
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.audit.checkpoint import Checkpoint, parse_signed_checkpoint
from services.audit.index import Filter
from services.audit.merkle import TILE_WIDTH, RightEdge, leaf_hash, verify_inclusion
from services.audit.note import NoteError, VerifierKey
from services.audit.receipt import check_signed
from services.audit.verification.offline import OfflineLog
from services.common.files import replace_file

FORMAT = "weaver-audit-export@v1"
_MAX_MANIFEST = 1024 * 1024
_BATCH = 4_096
_MAX_LINE = 1 << 20

Progress = Callable[[int, int], None]


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What an export is.

    Attributes:
        format: this format's name.
        origin: the log.
        size: how many records the checkpoint covers.
        checkpoint: the signed note.
        whole: whether it is every record of the log up to that size.
        filter: what was asked for, where it is not.
        records: how many lines there are.
        file: the file's name, beside the manifest.
        bytes: the file's length.
        sha256: the file's hash, in hexadecimal.
    """

    format: str
    origin: str
    size: int
    checkpoint: str
    whole: bool
    filter: dict[str, str]
    records: int
    file: str
    bytes: int
    sha256: str


class _Line(msgspec.Struct):
    index: int
    record: msgspec.Raw
    proof: list[str] = []


def manifest_path(path: Path) -> Path:
    """Return where the manifest of an export lies."""
    return path.with_name(f"{path.name}.manifest.json")


def export(
    log: OfflineLog, wanted: Filter, path: Path, progress: Progress = lambda _done, _size: None
) -> Manifest:
    """Write the records that match, oldest first, and the manifest beside them.

    Raises:
        OfflineError: the log cannot be read.
        OSError: the disk refuses.
    """
    whole = wanted == Filter()
    digest, length, records = sha256(), 0, 0
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as file:
        for index, entry in log.find(wanted, ascending=True):
            line = _line(index, entry, () if whole else log.receipt(index).proof)
            file.write(line)
            digest.update(line)
            length += len(line)
            records += 1
            if not index % TILE_WIDTH:
                progress(index, log.size)
        file.flush()
        os.fsync(file.fileno())
    manifest = Manifest(
        format=FORMAT,
        origin=log.checkpoint.checkpoint.origin,
        size=log.size,
        checkpoint=str(log.checkpoint.note),
        whole=whole,
        filter=_filter(wanted),
        records=records,
        file=path.name,
        bytes=length,
        sha256=digest.hexdigest(),
    )
    manifest_path(path).unlink(missing_ok=True)
    temporary.rename(path)
    _write_manifest(manifest_path(path), manifest)
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Return a manifest.

    Raises:
        NoteError: it is none; the message says why.
    """
    try:
        with path.open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MAX_MANIFEST), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{path}: it is no manifest of an export: {error}"
        raise NoteError(msg) from None
    if manifest.format != FORMAT or Path(manifest.file).name != manifest.file:
        msg = f"{path}: its format is not {FORMAT}, or its file does not lie beside it"
        raise NoteError(msg)
    return manifest


def verify_export(
    path: Path,
    keys: Callable[[str], list[VerifierKey]],
    progress: Progress = lambda _done, _size: None,
) -> tuple[Manifest, list[VerifierKey]]:
    """Prove every record of an export; return its manifest and the keys that vouch for it.

    Args:
        path: the manifest.
        keys: returns the keys that are trusted of a log.
        progress: is told how many records of how many are done.

    Raises:
        NoteError: something is not proven; the message says what.
    """
    manifest = load_manifest(path)
    signed = parse_signed_checkpoint(manifest.checkpoint.encode())
    checkpoint = signed.checkpoint
    if (checkpoint.origin, checkpoint.size) != (manifest.origin, manifest.size):
        msg = "the manifest's checkpoint is of another log, or of another size"
        raise NoteError(msg)
    signers = check_signed(signed, keys(checkpoint.origin))
    digest, length, records = sha256(), 0, 0
    edge, leaves, last = RightEdge(), [], -1
    try:
        with path.with_name(manifest.file).open("rb") as file:
            for line, parsed in _lines(file):
                digest.update(line)
                length += len(line)
                leaf = leaf_hash(bytes(parsed.record))
                _check(parsed, leaf, checkpoint, last, whole=manifest.whole)
                last = parsed.index
                records += 1
                if manifest.whole:
                    leaves.append(leaf)
                if len(leaves) == _BATCH:
                    list(edge.append(leaves))
                    leaves.clear()
                    progress(records, manifest.records)
    except OSError as error:
        msg = f"{manifest.file}: {error.strerror}"
        raise NoteError(msg) from None
    list(edge.append(leaves))
    if manifest.whole and (edge.size != checkpoint.size or edge.root() != checkpoint.root):
        msg = "the records do not have the root that was signed: some are changed or missing"
        raise NoteError(msg)
    if (records, length, digest.hexdigest()) != (manifest.records, manifest.bytes, manifest.sha256):
        msg = f"{manifest.file} is not the file that the manifest is about"
        raise NoteError(msg)
    return manifest, signers


def _check(line: _Line, leaf: bytes, checkpoint: Checkpoint, last: int, *, whole: bool) -> None:
    if line.index <= last or (whole and line.index != last + 1):
        msg = f"record {line.index} follows record {last}: out of order, or one is missing"
        raise NoteError(msg)
    if whole:
        return
    try:
        proof = [base64.b64decode(digest, validate=True) for digest in line.proof]
    except (binascii.Error, ValueError):
        proof = [b""]
    if not verify_inclusion(leaf, line.index, checkpoint.size, proof, checkpoint.root):
        msg = f"record {line.index} is not the one of the log: its proof does not hold"
        raise NoteError(msg)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, _Line]]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        try:
            yield line, msgspec.json.decode(line, type=_Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            msg = f"line {number} is not a record of an export"
            raise NoteError(msg) from None


def _line(index: int, entry: bytes, proof: tuple[bytes, ...]) -> bytes:
    tail = b""
    if proof:
        tail = b',"proof":' + msgspec.json.encode([base64.b64encode(h).decode() for h in proof])
    return b'{"index":%d,"record":%s%s}\n' % (index, entry, tail)


def _filter(wanted: Filter) -> dict[str, str]:
    named = {
        "tenant": wanted.tenant,
        "subject": wanted.subject,
        "request_id": wanted.request_id,
        "types": ",".join(wanted.types),
        "start_time": wanted.start_time,
        "end_time": wanted.end_time,
    }
    return {name: value for name, value in named.items() if value}


def _write_manifest(path: Path, manifest: Manifest) -> None:
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    replace_file(path, data, 0o666)
