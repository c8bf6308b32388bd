"""Known answers for notes and checkpoints: C2SP's own examples, and those of Go's reference.

Sources: c2sp.org/signed-note and c2sp.org/tlog-checkpoint, the documentation and tests of
golang.org/x/mod/sumdb/note, and a checkpoint of the log Rome as it was published.
"""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.checkpoint import parse_checkpoint, parse_signed_checkpoint
from services.audit.keys.signers import Signer
from services.audit.note import NoteError, parse_note, parse_verifier_key, sign_note

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER_NOTE = (
    f"{TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
QUASIMODO = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n\n"
    "ed è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SOFA = (
    "example.com/behind-the-sofa\n"
    "20852163\n"
    "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
ROME = (
    "rome.ct.filippo.io/2024h1\n"
    "115474666\n"
    "2q1K6aiIJR+F7TyhiWOghoWOjY0/3dVBLsBbAvB4xCw=\n\n"
    "— rome.ct.filippo.io/2024h1 "
    "ePSrrgAAAY5+gVlSBAMARzBFAiEAv8bOMzo3Ed/GbU9fzzJvaStX6i8xTsmEF+NqvpGhIO0CIEn1X+zzVEerdix64GEn97X"
    "CXObA2G5JQ8UDDqCKdG5m\n"
)
SUM_GOLANG_ORG = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


@pytest.mark.parametrize("key", [PETER, SUM_GOLANG_ORG])
def test_published_verifier_keys_have_the_ids_that_they_state(key: str) -> None:
    assert str(parse_verifier_key(key)) == key


def test_signing_gives_the_reference_note_byte_for_byte() -> None:
    seed = base64.b64decode(PETER_SEED)[1:]
    signer = Signer("PeterNeumann", Ed25519PrivateKey.from_private_bytes(seed))
    assert str(signer.verifier) == PETER
    assert str(sign_note(TEXT, [signer])) == PETER_NOTE


def test_the_reference_note_verifies_and_a_changed_one_does_not() -> None:
    key = parse_verifier_key(PETER)
    note = parse_note(PETER_NOTE.encode())
    (line,) = note.signatures
    assert (note.text, line.name, line.key_id) == (TEXT, key.name, key.key_id)
    assert key.verifies(note.text.encode(), line.signature)
    assert not key.verifies(note.text.replace("answer", "question").encode(), line.signature)


@pytest.mark.parametrize(
    "key",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        *{PETER[:end] for end in range(1, len(PETER))},
        *{PETER[start:] for start in range(1, len(PETER))},
    ],
)
def test_the_manglings_of_the_reference_tests_are_refused(key: str) -> None:
    with pytest.raises(NoteError):
        parse_verifier_key(key)


@pytest.mark.parametrize("text", [PETER_NOTE, QUASIMODO, SOFA, ROME])
def test_published_notes_are_spelt_back_to_the_byte(text: str) -> None:
    assert str(parse_note(text.encode())) == text


def test_a_text_may_have_empty_lines() -> None:
    assert parse_note(QUASIMODO.encode()).text.endswith(":\n\ned è subito sera.\n")


@pytest.mark.parametrize(
    ("text", "origin", "size", "key_id"),
    [
        (SOFA, "example.com/behind-the-sofa", 20_852_163, "033de0ae"),
        (ROME, "rome.ct.filippo.io/2024h1", 115_474_666, "78f4abae"),
    ],
)
def test_published_checkpoints_are_read(text: str, origin: str, size: int, key_id: str) -> None:
    signed = parse_signed_checkpoint(text.encode())
    assert (signed.checkpoint.origin, signed.checkpoint.size) == (origin, size)
    assert signed.checkpoint.text == signed.note.text
    (line,) = signed.note.signatures
    assert (line.name, line.key_id.hex()) == (origin, key_id)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n1\n",
        "origin\n01\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n-1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1_0\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n\u0661\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2J=\n",
        "origin\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
    ],
)
def test_what_the_specification_forbids_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parse_checkpoint(text)
