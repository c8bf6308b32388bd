"""Receipts as people hold them: a file or two, with the texts and keys to check beside them.

Three forms are read: the record with its `.tlog-proof` beside it; a `.tlog-proof` that carries the
record in its `extra` line; and the JSON that the front door gives.
"""

import hmac
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from services.audit.note import NoteError
from services.audit.receipt import HEADER, DamagedReceiptError, Receipt, parse_receipt

MAX_FILE_SIZE = 64 * 1024 * 1024
_PROOF = ".tlog-proof"
_KEY = re.compile(rb"[0-9a-fA-F]{64}")

Direction = Literal["prompt", "answer"]


class _JSON(msgspec.Struct):
    """What the front door says of a record."""

    record: msgspec.Raw
    index: int = -1
    proof: str = ""
    commitment_key: str = ""


class _Commitment(msgspec.Struct):
    hmac_sha256: str
    kind: str


class _Record(msgspec.Struct):
    commitments: list[_Commitment] = []
    type: str = ""


@dataclass(frozen=True)
class Evidence:
    """A record, its receipt, and the key of its commitments if that came along."""

    name: str
    entry: bytes
    receipt: Receipt
    commitment_key: bytes = b""

    def kinds(self, direction: Direction) -> list[str]:
        """Return which commitments to texts of a direction the record holds."""
        return [
            one.kind
            for one in msgspec.json.decode(self.entry, type=_Record).commitments
            if one.kind.startswith(direction)
        ]

    def bound(self, direction: Direction, text: bytes, keys: "CommitmentKeys") -> list[str]:
        """Return the kinds of commitments that are to this very text."""
        return [
            one.kind
            for one in msgspec.json.decode(self.entry, type=_Record).commitments
            if one.kind.startswith(direction)
            and any(
                hmac.compare_digest(hmac.digest(key, text, "sha256").hex(), one.hmac_sha256)
                for key in keys.of(self)
            )
        ]


class CommitmentKeys:
    """Keys of records' commitments; one without an index may be any record's."""

    def __init__(self) -> None:
        """Begin with none."""
        self._keys: list[tuple[int, bytes]] = []

    def add(self, given: str) -> None:
        """Take a key: 64 hexadecimal digits, or a file of them, or what the front door says.

        Raises:
            NoteError: it is none of these.
        """
        data = given.encode()
        if _KEY.fullmatch(data) is None:
            data = read(Path(given)).strip()
        index = -1
        if data.startswith(b"{"):
            try:
                said = msgspec.json.decode(data, type=_JSON)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                msg = f"{given}: it is not what the front door says of a commitment key"
                raise NoteError(msg) from None
            index, data = said.index, said.commitment_key.encode()
        if _KEY.fullmatch(data) is None:
            msg = "a commitment key is 64 hexadecimal digits, a file of them, or JSON with it"
            raise NoteError(msg)
        self._keys.append((index, bytes.fromhex(data.decode())))

    def of(self, evidence: Evidence) -> list[bytes]:
        """Return the keys that may be a record's."""
        own = [evidence.commitment_key] if evidence.commitment_key else []
        return own + [key for index, key in self._keys if index in {-1, evidence.receipt.index}]


def load_evidence(path: Path, proof: Path | None = None) -> Evidence:
    """Return the receipt that a file is, alone or with its proof.

    Args:
        path: the file.
        proof: where the proof lies; by default it is looked for in and beside the file.

    Raises:
        DamagedReceiptError: it was one.
        NoteError: it is none, or its proof is missing.
    """
    data = read(path)
    if proof is not None:
        return _with_proof(path, data, proof)
    if data.startswith(HEADER.encode()):
        receipt = parse_receipt(data.decode(errors="replace"))
        entry = receipt.extra
        beside = path.with_name(path.name.removesuffix(_PROOF))
        if not entry and beside != path:
            entry = read(beside)
        if not entry:
            msg = f"{path}: it is a proof without its record; name the record's file, and --proof"
            raise NoteError(msg)
        return Evidence(str(path), entry, receipt)
    said = _as_json(data)
    if said is not None:
        return said_by_front_door(str(path), said)
    return _with_proof(path, data, path.with_name(f"{path.name}{_PROOF}"))


def said_by_front_door(name: str, said: _JSON) -> Evidence:
    """Return the receipt that the front door gave."""
    receipt = parse_receipt(said.proof)
    if receipt.index != said.index:
        msg = f"{name}: its index is {said.index}, its proof's is {receipt.index}"
        raise DamagedReceiptError(msg)
    key = said.commitment_key.encode()
    if key and _KEY.fullmatch(key) is None:
        msg = f"{name}: its commitment key is not 64 hexadecimal digits"
        raise NoteError(msg)
    return Evidence(name, _canonical(said.record), receipt, bytes.fromhex(said.commitment_key))


def read(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        NoteError: it cannot be read; the message says why.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_SIZE + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror or error}"
        raise NoteError(msg) from None
    if len(data) > MAX_FILE_SIZE:
        msg = f"{path}: it has over {MAX_FILE_SIZE} bytes"
        raise NoteError(msg)
    return data


def _with_proof(path: Path, entry: bytes, proof: Path) -> Evidence:
    receipt = parse_receipt(read(proof).decode(errors="replace"))
    if receipt.extra and receipt.extra != entry:
        msg = f"{proof} carries another record than {path}"
        raise DamagedReceiptError(msg)
    return Evidence(str(path), entry, receipt)


def _as_json(data: bytes) -> _JSON | None:
    try:
        said = msgspec.json.decode(data, type=_JSON)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not said.proof:
        return None
    _refuse_repeated_names(data)
    return said


def _canonical(raw: msgspec.Raw) -> bytes:
    """Return a record's bytes, also where a tool has laid out the JSON around it anew."""
    try:
        return msgspec.json.encode(msgspec.json.decode(raw), order="sorted")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        msg = "the record in it is not JSON that a log can hold"
        raise DamagedReceiptError(msg) from None


def _refuse_repeated_names(data: bytes) -> None:
    """Refuse JSON in which a name stands twice: one reader would see what another proves.

    Raises:
        NoteError: a name stands twice.
    """

    def check(pairs: list[tuple[str, object]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            msg = "a name stands twice in its JSON: which of them is meant cannot be told"
            raise DamagedReceiptError(msg)

    try:
        json.loads(data, object_pairs_hook=check, parse_int=str, parse_float=str)
    except NoteError:
        raise
    except (ValueError, RecursionError):
        msg = "it is not JSON"
        raise NoteError(msg) from None
