"""Receipts: a record, a proof and a public key, and nothing else."""

import base64
from dataclasses import replace

import pytest

from services.audit.checkpoint import Checkpoint, SignedCheckpoint
from services.audit.keys.signers import Signer, generate_ed25519
from services.audit.merkle import leaf_hash, root_of
from services.audit.note import NoteError, sign_note
from services.audit.receipt import Receipt, make_receipt, parse_receipt, verify_receipt

ENTRIES = [f"entry {i}".encode() for i in range(300)]
SIGNER = Signer("weaver.test/log", generate_ed25519())
OTHER = Signer("weaver.test/log", generate_ed25519())


class Leaves:
    """Reads subtrees from the entries."""

    def node(self, level: int, index: int) -> bytes:
        return root_of([leaf_hash(e) for e in ENTRIES[index << level : (index + 1) << level]])


def signed(size: int, origin: str = "weaver.test/log", signer: Signer = SIGNER) -> SignedCheckpoint:
    root = root_of([leaf_hash(entry) for entry in ENTRIES[:size]])
    checkpoint = Checkpoint(origin, size, root)
    return SignedCheckpoint(checkpoint, sign_note(checkpoint.text, [signer]))


def receipt(index: int = 5, size: int = 300) -> Receipt:
    return make_receipt(index, Leaves(), signed(size))


def test_a_receipt_is_written_as_the_specification_writes_it() -> None:
    text = str(receipt(5, 7))
    lines = text.split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 5"]
    assert base64.b64decode(lines[2]) == leaf_hash(ENTRIES[4])
    assert lines[5:8] == ["", "weaver.test/log", "7"]
    assert text.endswith(str(signed(7).note))
    assert str(parse_receipt(text)) == text


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 300), (299, 300), (256, 257)])
def test_a_receipt_proves_its_record_and_no_other(index: int, size: int) -> None:
    parsed = parse_receipt(str(receipt(index, size)))
    assert verify_receipt(parsed, ENTRIES[index], [SIGNER.verifier]) == [SIGNER.verifier]
    with pytest.raises(NoteError, match="does not show this record"):
        verify_receipt(parsed, b"another record", [SIGNER.verifier])


def test_a_receipt_needs_a_signature_by_a_given_key() -> None:
    with pytest.raises(NoteError, match="no given key"):
        verify_receipt(receipt(), ENTRIES[5], [OTHER.verifier])
    with pytest.raises(NoteError, match="no given key"):
        verify_receipt(receipt(), ENTRIES[5], [])


def test_a_receipt_of_another_log_is_refused() -> None:
    other = signed(300, origin="another.test/log")
    replayed = Receipt(5, receipt().proof, other)
    with pytest.raises(NoteError, match=r"no given key of another\.test"):
        verify_receipt(replayed, ENTRIES[5], [SIGNER.verifier])


def test_a_wrong_signature_is_refused() -> None:
    good = signed(300)
    (line,) = good.note.signatures
    bad = line._replace(signature=bytes([line.signature[0] ^ 1]) + line.signature[1:])
    forged = SignedCheckpoint(good.checkpoint, good.note._replace(signatures=(bad,)))
    with pytest.raises(NoteError, match=r"signature of .* is wrong"):
        verify_receipt(Receipt(5, receipt().proof, forged), ENTRIES[5], [SIGNER.verifier])


def test_extra_data_comes_along_and_proves_nothing() -> None:
    text = str(receipt()).replace("index 5\n", "extra AAAA\nindex 5\n", 1)
    parsed = parse_receipt(text)
    assert parsed == replace(receipt(), extra=bytes(3))
    assert str(parsed) == text
    with pytest.raises(NoteError, match="extra line"):
        parse_receipt(text.replace("AAAA", "A*AA"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"),
        ("index 5", "index 05"),
        ("index 5", "index -5"),
        ("index 5\n", ""),
        ("index 5\n", "index 5\nnot base64\n"),
        ("index 5\n", "index 5\n" + "A" * 43 + "=\n" * 1 + ("A" * 43 + "=\n") * 64),
        ("\n\nweaver", "\nweaver"),
        ("\n300\n", "\n0300\n"),
    ],
)
def test_what_is_not_a_receipt_is_refused(old: str, new: str) -> None:
    text = str(receipt())
    assert old in text
    with pytest.raises(NoteError):
        parse_receipt(text.replace(old, new, 1))
