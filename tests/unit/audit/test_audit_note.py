"""Signed notes and checkpoints, against the words and examples of C2SP."""

import base64
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from services.audit.checkpoint import Checkpoint, parse_checkpoint, parse_signed_checkpoint
from services.audit.keys.signers import Signer, load_ed25519, load_rsa
from services.audit.note import (
    NoteError,
    VerifierKey,
    parse_note,
    parse_verifier_key,
    sign_note,
    valid_name,
)
from tests.fakes.auditlog import quick_keys

# The example of C2SP signed-note.
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE_NOTE = """This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""  # noqa: E501 - as published
NAME = "weaver.test/log"
ROOT = sha256(b"root").digest()


def signers() -> list[Signer]:
    rsa, ed25519 = quick_keys()
    return [
        Signer(NAME, load_rsa(rsa.encode(), "test", production=False)),
        Signer(NAME, load_ed25519(ed25519.encode(), "test")),
    ]


def test_the_specifications_example_verifies() -> None:
    key = parse_verifier_key(EXAMPLE_KEY)
    note = parse_note(EXAMPLE_NOTE.encode())
    assert str(key) == EXAMPLE_KEY
    assert str(note) == EXAMPLE_NOTE
    (line,) = note.signatures
    assert (line.name, line.key_id) == (key.name, key.key_id)
    assert key.verifies(note.text.encode(), line.signature)
    assert not key.verifies(b"This is another message.\n", line.signature)


def test_the_key_ids_are_those_of_the_design() -> None:
    rsa, ed25519 = (signer.verifier for signer in signers())
    der = rsa.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    raw = ed25519.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    prefix = NAME.encode() + b"\x0a"
    assert rsa.key_id == sha256(prefix + b"\xffPKIX-RSA-PKCS#1v1.5" + der).digest()[:4]
    assert ed25519.key_id == sha256(prefix + b"\x01" + raw).digest()[:4]
    assert rsa.fingerprint == sha256(der).hexdigest()
    for key in (rsa, ed25519):
        assert parse_verifier_key(str(key)) == key
        assert hash(parse_verifier_key(str(key))) == hash(key)
    assert rsa != ed25519


def test_a_checkpoint_carries_an_rsa_and_an_ed25519_line() -> None:
    note = sign_note(Checkpoint(NAME, 70_000, ROOT).text, signers())
    lines = str(note).split("\n")
    assert lines[:4] == [NAME, "70000", base64.b64encode(ROOT).decode(), ""]
    assert [line.split(" ")[:2] for line in lines[4:6]] == [["—", NAME]] * 2
    assert lines[6:] == [""]
    signed = parse_signed_checkpoint(str(note).encode())
    assert signed.checkpoint == Checkpoint(NAME, 70_000, ROOT)
    for signer, line in zip(signers(), signed.note.signatures, strict=True):
        assert signer.verifier.verifies(note.text.encode(), line.signature)


def test_openssl_verifies_the_rsa_line(tmp_path: Path) -> None:
    rsa, _ = signers()
    note = sign_note(Checkpoint(NAME, 3, ROOT).text, [rsa])
    (tmp_path / "text").write_text(note.text)
    (tmp_path / "key.pem").write_text(rsa.verifier.pem)
    blob = base64.b64decode(str(note).rsplit(" ", 1)[1])
    (tmp_path / "signature").write_bytes(blob[4:])
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature"]
    done = subprocess.run(
        [*command, "text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "Verified OK\n", done.stderr


@given(st.data())
def test_no_byte_of_a_note_can_change_unnoticed(data: st.DataObject) -> None:
    original = str(sign_note(Checkpoint(NAME, 12, ROOT).text, signers()[1:])).encode()
    place = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))
    key = signers()[1].verifier
    try:
        note = parse_note(bytes(changed))
    except NoteError:
        return
    assert str(note).encode() == bytes(changed)
    (line,) = note.signatures
    known = (line.name, line.key_id) == (key.name, key.key_id)
    assert not (known and key.verifies(note.text.encode(), line.signature))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no signatures"),
        (b"text\n", "no signatures"),
        (b"text\n\n", "no signatures"),
        (b"text\n\nnot a line\n", "not a signature line"),
        ("text\n\n— name\n".encode(), "bad base64"),
        ("text\n\n— name AAAA\n".encode(), "too short"),
        ("text\n\n— name AAAAAAA\n".encode(), "bad base64"),
        ("text\n\n— name AAAAAAB=\n".encode(), "bad base64"),
        ("text\n\n— na+me AAAAAAA=\n".encode(), "not a signature line"),
        ("te\rxt\n\n— name AAAAAAA=\n".encode(), "control character"),
        (b"te\xffxt\n\n", "not UTF-8"),
        (("text\n\n" + "— name AAAAAAA=\n" * 33).encode(), "over 32"),
        (b"x" * 70_000, "too long"),
    ],
)
def test_what_is_not_a_note_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(NoteError, match=sentence):
        parse_note(content)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("name", "form"),
        ("name+00000000+AA==", "unknown"),
        ("name+00000000+not base64", "base64"),
        (EXAMPLE_KEY.replace("530d903a", "530d903b"), "not its key's"),
        (EXAMPLE_KEY.replace("example.com/foo", "example.com/bar"), "not its key's"),
        ("name+00000000+" + base64.b64encode(b"\xffPKIX-RSA-PKCS#1v1.5x").decode(), "no RSA key"),
    ],
)
def test_what_is_not_a_verifier_key_is_refused(line: str, sentence: str) -> None:
    with pytest.raises(NoteError, match=sentence):
        parse_verifier_key(line)


def test_a_verifier_key_of_another_algorithm_is_refused() -> None:
    der = (
        generate_private_key(SECP256R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    encoded = base64.b64encode(b"\xffPKIX-RSA-PKCS#1v1.5" + der).decode()
    with pytest.raises(NoteError, match="no RSA key"):
        parse_verifier_key(f"name+00000000+{encoded}")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2003b", "a\nb", "a\x00"])
def test_a_name_that_would_break_a_line_is_refused(name: str) -> None:
    assert not valid_name(name)
    with pytest.raises(NoteError):
        VerifierKey(name, signers()[1].verifier.public_key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n1\n",
        "\n1\n" + "A" * 43 + "=\n",
        "origin\n01\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\n" + "A" * 42 + "B=\n",
        "origin\n1\n" + "A" * 43 + "=\nextension\n",
        "origin\n1\n" + "A" * 43 + "=",
    ],
)
def test_what_is_not_a_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)
