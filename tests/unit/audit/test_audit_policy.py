"""Policies and cosignatures, against the words and examples of C2SP."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from services.audit.checkpoint import Checkpoint
from services.audit.keys.signers import Signer, load_ed25519
from services.audit.merkle import leaf_hash
from services.audit.note import Note, NoteError, parse_note, parse_verifier_key, sign_note
from services.audit.witnesses.cosignature import Cosigner, cosigned_text, parse_cosigner_key
from services.audit.witnesses.policy import PolicyError, parse_policy
from services.audit.witnesses.vouching import vouched
from tests.fakes.auditlog import quick_keys

ORIGIN = "weaver.test/log"
NOW = 1_700_000_000

# The example of C2SP tlog-cosignature.
EXAMPLE = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501 - as published

# What a public log published and a public witness cosigned, with keys that both made known.
PUBLISHED = """arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwtEroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA23oHP7Ry1k3ZFWwQ=
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWfBw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/TmN9DAg==
"""  # noqa: E501 - as published
PUBLISHED_POLICY = b"""
log arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f
witness remora remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2
quorum remora
"""


def cosigner(number: int, name: str = "") -> Cosigner:
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return Cosigner(name or f"witness.test/{number}", key)


def log_signer() -> Signer:
    return Signer(ORIGIN, load_ed25519(quick_keys()[1].encode(), "test"))


def note_of(size: int = 1) -> Note:
    return sign_note(Checkpoint(ORIGIN, size, leaf_hash(b"entry")).text, [log_signer()])


def cosigned_by(note: Note, *who: Cosigner, at: int = NOW) -> Note:
    text = cosigned_text(note)
    return Note(note.text, (*note.signatures, *(one.cosign(text, at) for one in who)))


def policy_text(*lines: str, witnesses: int = 3) -> bytes:
    known = [f"witness w{n} {cosigner(n).verifier}" for n in range(1, witnesses + 1)]
    return "\n".join([f"log {log_signer().verifier}", *known, *lines, ""]).encode()


def test_the_published_example_has_the_layout_that_we_read() -> None:
    note = parse_note(EXAMPLE.encode())
    line = note.signatures[1]
    assert int.from_bytes(line.signature[:8], "big") == 1679315147
    assert len(line.signature) == 8 + 64
    assert cosigned_text(note).checkpoint.size == 20852163


def test_what_a_public_witness_cosigned_is_accepted_and_nothing_else() -> None:
    policy = parse_policy(PUBLISHED_POLICY)
    found = vouched(parse_note(PUBLISHED.encode()), policy, 2e9)
    assert found.accepted
    assert [(vouch.witness, vouch.time) for vouch in found.vouches] == [("remora", 0x6A122120)]
    other = PUBLISHED.replace("1432088532", "1432088533")
    assert vouched(parse_note(other.encode()), policy, 2e9).problems == [
        "the signature line of the log arche2025h1.staging.ct.transparency.dev is wrong",
        "the cosignature of remora is wrong",
    ]


def test_an_ed25519_cosignature_signs_the_words_of_the_specification() -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    note = note_of()
    line = Cosigner("witness.test/w", key).cosign(cosigned_text(note), NOW)
    message = f"cosignature/v1\ntime {NOW}\n{note.text}".encode()
    assert line.signature == NOW.to_bytes(8, "big") + key.sign(message)


def test_an_ml_dsa_cosignature_signs_the_structure_of_the_specification() -> None:
    key = MLDSA44PrivateKey.from_seed_bytes(bytes(32))
    note = note_of(7)
    line = Cosigner("w", key).cosign(cosigned_text(note), NOW)
    structure = b"".join(
        (
            b"subtree/v1\n\0",
            b"\x01w",
            NOW.to_bytes(8, "big"),
            bytes([len(ORIGIN)]) + ORIGIN.encode(),
            bytes(8),
            (7).to_bytes(8, "big"),
            leaf_hash(b"entry"),
        )
    )
    key.public_key().verify(line.signature[8:], structure)
    assert len(line.signature) == 8 + 2420


@pytest.mark.parametrize(
    "key", [Ed25519PrivateKey.generate(), MLDSA44PrivateKey.generate()], ids=["0x04", "0x06"]
)
def test_a_cosignature_counts_for_its_own_checkpoint_name_and_time_alone(
    key: Ed25519PrivateKey | MLDSA44PrivateKey,
) -> None:
    own = Cosigner("witness.test/w", key)
    text = cosigned_text(note_of(1))
    line = own.cosign(text, NOW)
    public = parse_cosigner_key(str(own.verifier))
    assert public.owns(line)
    assert public.time_of(text, line.signature) == NOW
    assert public.time_of(cosigned_text(note_of(2)), line.signature) is None
    later = (NOW + 1).to_bytes(8, "big") + line.signature[8:]
    assert public.time_of(text, later) is None
    assert public.time_of(text, b"\xff" + line.signature[1:]) is None
    assert public.time_of(text, line.signature[:-1]) is None
    assert public.time_of(text, b"") is None


def test_an_extension_line_is_cosigned_with_the_checkpoint() -> None:
    plain = note_of()
    extended = Note(plain.text + "extension 1\n", plain.signatures)
    line = cosigner(1).cosign(cosigned_text(extended), NOW)
    assert cosigner(1).verifier.time_of(cosigned_text(extended), line.signature) == NOW
    assert cosigner(1).verifier.time_of(cosigned_text(plain), line.signature) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "name",
        "name+00000000",
        "name+00000000+",
        "name+00000000+!!",
        str(log_signer().verifier),
        str(cosigner(1).verifier).replace("+", "+0", 1),
        str(cosigner(1).verifier).upper(),
        "a b+" + str(cosigner(1).verifier).split("+", 1)[1],
        "witness.test/1+00000000+" + base64.b64encode(b"\x04short").decode(),
    ],
)
def test_what_is_no_cosigners_key_is_refused(line: str) -> None:
    with pytest.raises(NoteError):
        parse_cosigner_key(line)


def test_a_log_key_is_no_witness_key_although_the_octets_are_the_same() -> None:
    assert parse_verifier_key(str(log_signer().verifier))
    with pytest.raises(PolicyError, match="line 2"):
        parse_policy(f"quorum none\nwitness w {log_signer().verifier}\n".encode())


@pytest.mark.parametrize(
    ("lines", "present", "met"),
    [
        (["quorum none"], [], True),
        (["quorum w1"], ["w1"], True),
        (["quorum w1"], ["w2", "w3"], False),
        (["group g any w1 w2 w3", "quorum g"], ["w3"], True),
        (["group g all w1 w2 w3", "quorum g"], ["w1", "w2"], False),
        (["group g 2 w1 w2 w3", "quorum g"], ["w1", "w3"], True),
        (["group g 2 w1 w2 w3", "quorum g"], ["w1"], False),
        (["group g 2 w1 w2", "group h all g w3", "quorum h"], ["w1", "w2"], False),
        (["group g 2 w1 w2", "group h all g w3", "quorum h"], ["w1", "w2", "w3"], True),
        (["group g 2 w1 w2", "group h any g w3", "quorum h"], ["w3"], True),
    ],
)
def test_a_quorum_is_met_by_whom_it_names(lines: list[str], present: list[str], met: bool) -> None:
    assert parse_policy(policy_text(*lines)).met(present) is met


def test_white_space_comments_urls_and_alphabets_are_as_the_specification_has_them() -> None:
    key = cosigner(1).verifier
    text = (
        f"  # a comment \u00e9\n\t\nlog\t{log_signer().verifier}  https://log.example/ \n"
        f" witness \t\u212a {key} https://witness.example/\u00e9\nquorum \u212a"
    ).encode()
    policy = parse_policy(text.replace(b"\xc3\xa9", b"\xe9"))
    assert policy.logs[0].url == "https://log.example/"
    (witness,) = policy.witnesses.values()
    assert (witness.name, witness.key.key_id) == ("\u212a", key.key_id)
    assert not policy.met(["K"])
    assert policy.met(["\u212a"])


W1 = f"witness w1 {cosigner(1).verifier}"


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([W1], "no quorum"),
        (["quorum w1", W1], "line 1"),
        ([W1, "quorum w1", "quorum none"], "line 3"),
        ([W1, f"witness w1 {cosigner(2).verifier}", "quorum none"], "line 2"),
        ([W1, f"witness w2 {cosigner(1, 'other').verifier}", "quorum none"], "line 2"),
        ([f"log {log_signer().verifier}"] * 2 + ["quorum none"], "line 2"),
        ([f"witness none {cosigner(1).verifier}", "quorum none"], "line 1"),
        ([W1, "group w1 any w1", "quorum none"], "line 2"),
        ([W1, "group none any w1", "quorum none"], "line 2"),
        ([W1, "group g any none", "quorum none"], "line 2"),
        ([W1, "group g any g", "quorum none"], "line 2"),
        ([W1, "group g any", "quorum none"], "line 2"),
        ([W1, "group g any w1 w1", "quorum none"], "line 2"),
        ([W1, "group g any w1", "group h any w1", "quorum none"], "line 3"),
        ([W1, "group g 0 w1", "quorum none"], "line 2"),
        ([W1, "group g 2 w1", "quorum none"], "line 2"),
        ([W1, "group g +1 w1", "quorum none"], "line 2"),
        ([W1, "group g ALL w1", "quorum none"], "line 2"),
        ([W1, "quorum w1 w1"], "line 2"),
        ([W1, "quorum"], "line 2"),
        (["quorum none", "Log x"], "line 2"),
        (["quorum none", "log x"], "line 2"),
        (["quorum none", "log"], "line 2"),
        (["quorum none", f"{W1} url more"], "line 2"),
        (["quorum none\r"], "line 1"),
        (["quorum none", "# \x7f"], "line 2"),
    ],
)
def test_a_bad_policy_is_refused_with_its_line(lines: list[str], line: str) -> None:
    with pytest.raises(PolicyError, match=line):
        parse_policy("\n".join([*lines, ""]).encode())


def test_a_policy_as_large_as_is_recommended_is_read() -> None:
    witnesses = [f"witness w{n} {cosigner(n).verifier}" for n in range(1, 33)]
    groups = [f"group g{n} any w{n}{f' g{n - 1}' if n > 1 else ''}" for n in range(1, 33)]
    policy = parse_policy("\n".join([*witnesses, *groups, "quorum g32", ""]).encode())
    assert policy.met(["w1"])
    assert not policy.met([])


def test_what_vouches_for_a_checkpoint_is_counted() -> None:
    policy = parse_policy(policy_text("group g 2 w1 w2 w3", "quorum g"))
    assert not vouched(note_of(), policy, NOW).accepted
    one = vouched(cosigned_by(note_of(), cosigner(1)), policy, NOW)
    assert ([vouch.witness for vouch in one.vouches], one.quorum) == (["w1"], False)
    two = vouched(cosigned_by(note_of(), cosigner(1), cosigner(3), cosigner(9)), policy, NOW)
    assert two.accepted
    assert [vouch.time for vouch in two.vouches] == [NOW, NOW]


def test_one_witness_that_signs_twice_is_one_witness() -> None:
    policy = parse_policy(policy_text("group g 2 w1 w2 w3", "quorum g"))
    assert not vouched(cosigned_by(note_of(), cosigner(1), cosigner(1)), policy, NOW).quorum


def test_a_wrong_cosignature_of_a_known_witness_spoils_the_checkpoint() -> None:
    policy = parse_policy(policy_text("quorum w1"))
    note = cosigned_by(note_of(), cosigner(1), cosigner(2))
    bad = note.signatures[2]._replace(signature=bytes(72))
    found = vouched(Note(note.text, (*note.signatures[:2], bad)), policy, NOW)
    assert not found.accepted
    assert found.problems == ["the cosignature of w2 is wrong"]


def test_a_cosignature_from_the_future_or_from_no_time_does_not_count() -> None:
    policy = parse_policy(policy_text("quorum w1"))
    ahead = vouched(cosigned_by(note_of(), cosigner(1), at=NOW + 301), policy, NOW)
    assert not ahead.quorum
    assert "future" in ahead.problems[0]
    assert vouched(cosigned_by(note_of(), cosigner(1), at=NOW + 299), policy, NOW).accepted
    assert not vouched(cosigned_by(note_of(), cosigner(1), at=0), policy, NOW).quorum


def test_a_checkpoint_of_a_log_that_the_policy_does_not_know_is_not_accepted() -> None:
    other = Signer(ORIGIN, Ed25519PrivateKey.generate())
    note = sign_note(Checkpoint(ORIGIN, 1, leaf_hash(b"entry")).text, [other])
    policy = parse_policy(policy_text("quorum w1"))
    found = vouched(cosigned_by(note, cosigner(1)), policy, NOW)
    assert found.quorum
    assert not found.by_log
    assert not found.accepted
    assert found.document()["accepted"] is False
