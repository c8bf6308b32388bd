"""Receipts, as C2SP tlog-proof defines them: an inclusion proof and the checkpoint it leads to.

With the record's bytes and a public key of the log, a receipt needs nothing else: no network, no
log, no trust in whoever hands it over.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.merkle import (
    HASH_SIZE,
    NodeReader,
    inclusion_proof,
    leaf_hash,
    verify_inclusion,
)
from services.audit.note import NoteError, VerifierKey

HEADER = "c2sp.org/tlog-proof@v1"
_MAX_PROOF = 64
_INDEX = re.compile(r"index (0|[1-9]\d{0,18})", re.ASCII)


class DamagedReceiptError(NoteError):
    """It begins as a receipt does, and is none that a log gave."""


@dataclass(frozen=True)
class Receipt:
    """A proof that a record stands at an index under a checkpoint."""

    index: int
    proof: tuple[bytes, ...]
    checkpoint: SignedCheckpoint
    extra: bytes = b""
    """The record itself, if it travels along: nothing vouches for it but the proof."""

    def __str__(self) -> str:
        """Return the receipt as it lies in a file."""
        hashes = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in self.proof)
        extra = f"extra {base64.b64encode(self.extra).decode()}\n" if self.extra else ""
        return f"{HEADER}\n{extra}index {self.index}\n{hashes}\n{self.checkpoint.note}"


def make_receipt(index: int, reader: NodeReader, checkpoint: SignedCheckpoint) -> Receipt:
    """Return the receipt of a record under a checkpoint that covers it."""
    proof = inclusion_proof(reader, index, checkpoint.checkpoint.size)
    return Receipt(index, tuple(proof), checkpoint)


def parse_receipt(text: str) -> Receipt:
    """Return a receipt that was written to a file.

    Raises:
        DamagedReceiptError: it begins as one and does not go on so; the message says where.
        NoteError: it is not a receipt.
    """
    head, separator, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != HEADER:
        msg = f"not a receipt: its first line is not {HEADER}"
        raise NoteError(msg)
    if not separator:
        msg = "the receipt has no checkpoint"
        raise DamagedReceiptError(msg)
    try:
        return _parse(lines[1:], note)
    except NoteError as error:
        raise DamagedReceiptError(str(error)) from None


def _parse(rest: list[str], note: str) -> Receipt:
    """Return the receipt of the lines after the first and the note after the empty one.

    Raises:
        NoteError: they are none.
    """
    extra = b""
    if rest and rest[0].startswith("extra "):
        extra = _extra(rest[0].removeprefix("extra "))
        rest = rest[1:]
    match = _INDEX.fullmatch(rest[0]) if rest else None
    if match is None:
        msg = "the receipt has no index line"
        raise NoteError(msg)
    if len(rest) - 1 > _MAX_PROOF:
        msg = "the receipt's proof is too long"
        raise NoteError(msg)
    proof = tuple(_hash(line) for line in rest[1:])
    return Receipt(int(match[1]), proof, parse_signed_checkpoint(note.encode()), extra)


def verify_receipt(
    receipt: Receipt, entry: bytes, keys: Sequence[VerifierKey]
) -> list[VerifierKey]:
    """Return the keys that vouch for the record, of those given.

    Raises:
        NoteError: the proof does not lead from the record to the checkpoint, a known key's
            signature is bad, or no known key signed.
    """
    checkpoint = receipt.checkpoint.checkpoint
    signers = check_signed(receipt.checkpoint, keys)
    if not verify_inclusion(
        leaf_hash(entry), receipt.index, checkpoint.size, receipt.proof, checkpoint.root
    ):
        msg = f"the proof does not show this record at index {receipt.index}"
        raise NoteError(msg)
    return signers


def check_signed(signed: SignedCheckpoint, keys: Sequence[VerifierKey]) -> list[VerifierKey]:
    """Return the keys that signed a checkpoint, of those given.

    Raises:
        NoteError: a known key's signature is bad, or no known key signed.
    """
    checkpoint, note = signed
    known = {(key.name, key.key_id): key for key in keys if key.name == checkpoint.origin}
    signers = []
    for line in note.signatures:
        key = known.get((line.name, line.key_id))
        if key is None:
            continue
        if not key.verifies(note.text.encode(), line.signature):
            msg = f"the {key.algorithm} signature of {key.name} is wrong"
            raise NoteError(msg)
        signers.append(key)
    if not signers:
        msg = f"no given key of {checkpoint.origin} signed it"
        raise NoteError(msg)
    return signers


def _extra(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        msg = "the receipt's extra line is not base64"
        raise NoteError(msg) from None


def _hash(line: str) -> bytes:
    try:
        digest = base64.b64decode(line, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != HASH_SIZE or base64.b64encode(digest).decode() != line:
        msg = f"the receipt has a bad hash: {line[:60]!r}"
        raise NoteError(msg)
    return digest
