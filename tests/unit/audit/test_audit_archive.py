"""The archive of public keys: who signed when, and what is said of it a moment before and after."""

from pathlib import Path

import pytest

from services.audit.keys import signers as keys
from services.audit.keys.archive import DAY_S, ArchiveError, KeyArchive, load_archive, rfc3339
from services.audit.keys.provenance import Provenance
from services.audit.keys.signatures import load_keys
from services.audit.keys.signers import Signer

START = 1_700_000_000


def test_the_archive_keeps_every_key_with_its_validity(tmp_path: Path) -> None:
    one, two = (Signer("log", keys.generate_ed25519()).verifier for _ in range(2))
    archive = KeyArchive("log")
    stated = Provenance(made_by="ann", reason="first")
    assert archive.use([one], START, size=0, provenance={one.fingerprint: stated})
    assert not archive.use([one], START + 1, size=3)
    assert archive.use([two], START + 2.5, size=7, environment="staging", grace_s=60)
    archive.save(tmp_path / "keys")
    again = load_archive(tmp_path / "keys")
    assert again.keys == archive.keys
    assert again.verifiers == [one, two]
    old, new = again.keys
    assert (old.end_time, old.accepted_until) == (
        "2023-11-14T22:13:22.500Z",
        "2023-11-14T22:14:22.500Z",
    )
    assert old.provenance == stated
    assert (new.replaces, new.start_size, new.environment) == (one.fingerprint, 7, "staging")
    assert [key.key for key in again.active] == [two]
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"


def test_a_retired_key_is_accepted_until_the_last_second_of_its_grace() -> None:
    """A key that is replaced on day 90 is accepted until day 120."""
    one, two = (Signer("log", keys.generate_ed25519()).verifier for _ in range(2))
    archive = KeyArchive("log")
    archive.use([one], START)
    rotated = START + 90 * DAY_S
    (term,) = archive.keys
    for now in (START, rotated - 1, rotated, rotated + 1):
        assert term.state(now) == "active"
    archive.use([two], rotated)
    last = START + 120 * DAY_S
    for now, state in (
        (rotated, "grace"),
        (rotated + 1, "grace"),
        (last - 1, "grace"),
        (last, "grace"),
        (last + 1, "retired"),
    ):
        assert term.state(now) == state
    assert term.age_days(last) == 90


def test_a_key_may_come_back_and_has_a_term_for_each_time() -> None:
    one, two = (Signer("log", keys.generate_ed25519()).verifier for _ in range(2))
    archive = KeyArchive("log")
    for now, key in enumerate([one, two, one]):
        archive.use([key], START + now, size=now)
    assert [term.fingerprint for term in archive.keys] == [
        one.fingerprint,
        two.fingerprint,
        one.fingerprint,
    ]
    assert len(archive.terms(one.fingerprint)) == 2
    assert archive.verifiers == [one, two]


def test_a_clock_that_goes_back_ends_no_key_before_its_start() -> None:
    one, two = (Signer("log", keys.generate_ed25519()).verifier for _ in range(2))
    archive = KeyArchive("log")
    archive.use([one], START)
    archive.use([two], START - 100)
    assert archive.keys[0].end_time == archive.keys[0].start_time


def test_a_key_signs_from_its_first_size_to_its_last() -> None:
    one = Signer("log", keys.generate_ed25519()).verifier
    archive = KeyArchive("log")
    archive.use([one], START, size=10)
    (term,) = archive.keys
    assert [term.may_sign(size) for size in (9, 10, 11)] == [False, True, True]
    assert [term.in_force(size) for size in (9, 10, 11)] == [False, False, True]
    archive.use([], START + 1, size=20)
    assert term.may_sign(21)  # Nobody wrote down yet where it ended.
    term.end_size = 20
    assert [term.may_sign(size) for size in (20, 21)] == [True, False]
    assert [term.in_force(size) for size in (20, 21)] == [True, False]
    assert "size 10, to" in term.validity
    assert "size 20, accepted until" in term.validity


def test_an_archive_whose_parts_do_not_belong_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(ArchiveError, match="no key archive"):
        load_archive(path)
    archive = KeyArchive("log")
    archive.use([Signer("log", keys.generate_ed25519()).verifier], START)
    archive.save(path)
    text = path.read_text()
    key = archive.keys[0]
    for changed in (
        text.replace(key.fingerprint, "0" * 64),
        text.replace('"Ed25519"', '"RSA"'),
        text.replace('"Ed25519"', '"DSA"'),
        text.replace('"log"', '"other"'),
        text.replace("PUBLIC KEY-----\\n", "PUBLIC KEY-----\\nX", 1),
        text.replace("2023-11-14", "2023-31-14"),
        text.replace(".000Z", ".000"),
        text.replace(key.verifier_key, "nonsense"),
        text[:-20],
    ):
        assert changed != text
        path.write_text(changed)
        with pytest.raises(ArchiveError):
            load_archive(path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"text", b"{}", b"-----BEGIN PUBLIC KEY-----"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArchiveError):
        load_keys(tmp_path / "missing")
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ArchiveError):
        load_keys(tmp_path / "keys")
