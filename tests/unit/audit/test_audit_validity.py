"""Keys outside their validity, and where a key that somebody holds leads: by the verifier."""

import asyncio
import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.keys import files as keyfiles
from services.audit.keys import signers as keys
from services.audit.keys.archive import DAY_S, ArchivedKey, KeyArchive, load_archive
from services.audit.keys.rotations import Rotations
from services.audit.keys.signatures import Keys, load_keys, outside_validity
from services.audit.keys.signers import Signer
from services.audit.keys.succession import endorsements, follow
from services.audit.layout import Layout
from services.audit.note import sign_note
from services.audit.verification.offline import published_before
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.cli import audit
from tests.fakes.auditlog import record
from tests.fakes.keyring import DAY_0, Keyring, MovedClock, running
from tests.fakes.waiting import eventually


def test_keys_that_the_first_logs_announced_are_known_by_their_fingerprint() -> None:
    """Their records said `fingerprint`, as a key came or went and none took another's place."""
    report = Report(size=2)
    rotations = Rotations(report)
    rotations.take(0, b'{"attributes":{"action":"added","fingerprint":"aa"}}')
    rotations.take(1, b'{"attributes":{"action":"retired","fingerprint":"aa"}}')
    term = ArchivedKey("", "RSA", "aa", "", "2026-01-01T00:00:00Z", start_record=0, end_record=1)
    rotations.compare(Keys(KeyArchive("log", [term])), whole=True)
    assert report.findings == []
    rotations.take(1, b'{"attributes":{"action":"retired","fingerprint":"bb"}}')
    rotations.compare(Keys(KeyArchive("log", [term])), whole=True)
    assert [finding.kind for finding in report.findings] == ["wrongly signed"]


class Rotated:
    """A log whose RSA key was replaced on day 90, and the private keys, as a thief has them."""

    def __init__(self, log: Path, old: bytes, new: bytes, ed25519: bytes) -> None:
        self.log = log
        origin = load_archive(Layout(log).keys).origin
        self.old = Signer(origin, keys.load_rsa(old, "x", production=False))
        self.new = Signer(origin, keys.load_rsa(new, "x", production=False))
        self.ed25519 = Signer(origin, keys.load_ed25519(ed25519, "x"))

    @property
    def archive(self) -> KeyArchive:
        return load_archive(Layout(self.log).keys)

    def resign(self, *signers: Signer) -> None:
        """Sign the newest checkpoint anew, with other keys."""
        path = self.log / "checkpoint"
        signed = parse_signed_checkpoint(path.read_bytes())
        path.write_text(str(sign_note(signed.checkpoint.text, signers)))

    def edit(self, **fields: object) -> None:
        """Change what the archive says of the old key."""
        archive = self.archive
        for name, value in fields.items():
            setattr(archive.keys[0], name, value)
        archive.save(Layout(self.log).keys)

    def verify(self, trusted: Keys | None = None) -> Report:
        own = load_keys(Layout(self.log).keys)
        return verify(self.log, trusted or own, history=published_before(self.log))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("rotated")
    asyncio.run(make(state))
    return state


async def make(state: Path) -> None:
    clock, ring = MovedClock(), Keyring(state / "mounted")
    async with running(state, clock, **ring.settings()) as log:
        await log.append([record(1), record(2)])
        clock.day(90)
        (state / "old.pem").write_bytes(ring.rotate_rsa())
        await eventually(lambda: load_archive(Layout(log.log).keys).keys[-1].endorsement)
        await log.append([record(3), record(4)])


@pytest.fixture
def rotated(made: Path, tmp_path: Path) -> Rotated:
    state = tmp_path / "copy"
    shutil.copytree(made, state)
    return Rotated(
        state / "audit" / "log",
        (state / "old.pem").read_bytes(),
        (state / "mounted" / keyfiles.RSA_FILE).read_bytes(),
        (state / "mounted" / keyfiles.ED25519_FILE).read_bytes(),
    )


def findings(report: Report) -> list[str]:
    assert report.passed("integrity")
    return [f.message for f in report.findings if f.verdict == "signatures"]


def test_a_rotated_log_is_good(rotated: Rotated) -> None:
    assert rotated.verify().findings == []


def test_a_retired_key_that_goes_on_signing_is_convicted_and_named(rotated: Rotated) -> None:
    rotated.resign(rotated.new, rotated.ed25519, rotated.old)
    (message,) = findings(rotated.verify())
    assert f"the RSA key {rotated.old.verifier.fingerprint[:16]} signed size" in message
    assert "outside its validity: from 2026-" in message
    bad = [line for line in rotated.verify().signatures if line.state == "bad"]
    assert [line.fingerprint for line in bad] == [rotated.old.verifier.fingerprint]


def test_a_retired_key_alone_is_convicted_twice(rotated: Rotated) -> None:
    rotated.resign(rotated.old, rotated.ed25519)
    messages = findings(rotated.verify())
    assert len(messages) == 2
    assert "outside its validity" in messages[0]
    assert "the active RSA key did not sign it" in messages[1]


def test_a_key_that_signs_before_its_time_is_convicted(rotated: Rotated) -> None:
    new = rotated.archive.keys[-1]
    assert new.start_size
    trusted = Keys(rotated.archive)
    assert "outside its validity" in outside_validity(trusted, new.key, new.start_size - 1)
    assert outside_validity(trusted, new.key, new.start_size) == ""


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"end_size": 3}, "outside its validity"),
        ({"end_record": None, "end_time": None, "end_size": None}, "the active RSA key"),
        ({"start_record": 1}, "record 1 announces the RSA key"),
        ({"end_record": 2}, "record 2 retires the RSA key"),
    ],
)
def test_an_archive_that_the_log_does_not_bear_out_is_named(
    rotated: Rotated, fields: dict[str, object], sentence: str
) -> None:
    endorsed = rotated.archive.keys[-1].endorsement
    rotated.edit(**fields)
    history = [*published_before(rotated.log), parse_signed_checkpoint(endorsed.encode())]
    trusted = load_keys(Layout(rotated.log).keys)
    messages = findings(verify(rotated.log, trusted, history=history))
    if sentence == "the active RSA key":
        assert messages == []  # The new one signed: one key of an algorithm is enough.
    else:
        assert any(sentence in message for message in messages), messages


@pytest.mark.parametrize(
    ("start", "end", "good"),
    [
        ("2020-01-01T00:00:00Z", "2020-04-01T00:00:00Z", False),
        ("2099-01-01T00:00:00Z", None, False),
        ("2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z", True),
    ],
)
def test_a_key_is_held_to_its_times_by_the_records_of_the_log(
    rotated: Rotated, start: str, end: str | None, good: bool
) -> None:
    archive = rotated.archive
    archive.keys[1].start_time = start
    archive.keys[1].end_time = end
    messages = findings(rotated.verify(Keys(archive)))
    assert (messages == []) is good
    if not good:
        fingerprint = rotated.ed25519.verifier.fingerprint[:16]
        assert any(f"the Ed25519 key {fingerprint} signed it outside" in m for m in messages)


def test_a_key_that_the_archive_lacks_and_the_log_announces_is_missing(rotated: Rotated) -> None:
    archive = rotated.archive
    del archive.keys[-1]
    report = rotated.verify(Keys(archive))
    assert any("which the archive of keys does not have" in m for m in findings(report))


def test_a_key_that_was_slipped_into_the_archive_is_convicted(rotated: Rotated) -> None:
    """Whoever can write the archive adds a key of their own and signs the newest checkpoint."""
    archive = rotated.archive
    mine = Signer(archive.origin, keys.generate_rsa(2048))
    archive.use([mine.verifier, rotated.ed25519.verifier], DAY_0 + 91 * DAY_S, size=0)
    archive.save(Layout(rotated.log).keys)
    rotated.resign(mine, rotated.ed25519)
    messages = findings(rotated.verify())
    assert f"no record announces the RSA key {mine.verifier.fingerprint[:16]}" in messages


def test_an_old_key_leads_to_the_new_one_until_its_grace_is_over(rotated: Rotated) -> None:
    """Replaced on day 90, the old key is accepted until day 120, to the second."""
    trusted = Keys(keys=[rotated.old.verifier.public_key])
    end = datetime.fromisoformat(rotated.archive.keys[0].accepted_until or "").timestamp()
    assert round((end - DAY_0) / DAY_S) == 120
    for now in (DAY_0 + 90 * DAY_S, end - 1, end):
        found = follow(trusted, rotated.archive, now)
        assert (len(found.followed), found.stale) == (1, [])
        report = verify(rotated.log, found.keys, history=found.endorsements)
        assert report.findings == []
    found = follow(trusted, rotated.archive, end + 1)
    assert found.followed == []
    assert "was retired at" in found.stale[0]
    assert "no trusted key signed it" in findings(rotated.verify(found.keys))[0]


def test_an_older_copy_of_the_archive_leads_on_as_well(rotated: Rotated) -> None:
    copy = KeyArchive(rotated.archive.origin, rotated.archive.keys[:2])
    copy.keys[0].end_time = copy.keys[0].end_size = copy.keys[0].accepted_until = None
    copy.keys[0].end_record = None
    now = DAY_0 + 100 * DAY_S
    found = follow(Keys(copy), rotated.archive, now)
    assert verify(rotated.log, found.keys, history=found.endorsements).findings == []
    assert copy.keys[0].end_time is None  # The copy stays as it is.
    # A key that is not endorsed is not believed, whoever wrote the archive beside the log.
    forged = rotated.archive
    forged.keys[-1].endorsement = ""
    assert follow(Keys(copy), forged, now).followed == []


def test_an_endorsement_must_be_signed_by_both_and_cover_the_record(rotated: Rotated) -> None:
    trusted = Keys(keys=[rotated.old.verifier])
    now = DAY_0 + 100 * DAY_S
    good = parse_signed_checkpoint(rotated.archive.keys[-1].endorsement.encode())
    small = good.checkpoint._replace(size=3)
    other = good.checkpoint._replace(origin="another")
    old, new = rotated.old, rotated.new
    for checkpoint, signers in (
        (good.checkpoint, [old]),
        (good.checkpoint, [new]),
        (small, [old, new]),
        (other, [old, new]),
    ):
        archive = rotated.archive
        archive.keys[-1].endorsement = str(sign_note(checkpoint.text, signers))
        assert follow(trusted, archive, now).followed == []
    archive.keys[-1].endorsement = "nonsense"
    assert follow(trusted, archive, now).followed == []
    # A thief of the old key can endorse, but not in this log: the checkpoint must be in its tree.
    archive.keys[-1].endorsement = str(
        sign_note(good.checkpoint._replace(root=bytes(32)).text, [old, new])
    )
    found = follow(trusted, archive, now)
    assert len(found.followed) == 1
    assert not verify(rotated.log, found.keys, history=found.endorsements).good


def test_the_endorsements_of_an_archive_hold_the_log(rotated: Rotated) -> None:
    (signed,) = endorsements(rotated.archive)
    assert len(signed.note.signatures) == 3


def run(*arguments: object) -> Any:
    return CliRunner().invoke(audit.app, [str(argument) for argument in arguments])


def test_the_command_follows_an_auditors_old_key(
    rotated: Rotated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "old.pub.pem"
    key.write_text(rotated.old.verifier.pem)
    arguments = ["verify", rotated.log, "--keys", key, "--no-remember"]
    monkeypatch.setattr("time.time", lambda: DAY_0 + 100 * DAY_S)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "endorsed" in result.stderr
    monkeypatch.setattr("time.time", lambda: DAY_0 + 121 * DAY_S)
    result = run(*arguments)
    assert result.exit_code == 1
    assert "get the key" in result.stderr
    result = run("verify", rotated.log, "--no-remember", "--json")
    assert json.loads(result.stdout)["good"] is True


def test_receipts_of_every_time_verify_with_the_archive(rotated: Rotated, tmp_path: Path) -> None:
    """The archive of public keys verifies every historical checkpoint."""
    for old in [*published_before(rotated.log), *endorsements(rotated.archive)]:
        keys_of: Any = load_keys(Layout(rotated.log).keys)
        for line in old.note.signatures:
            (key,) = [k for k in keys_of.named(old.checkpoint.origin) if k.key_id == line.key_id]
            assert key.verifies(old.note.text.encode(), line.signature)
            assert outside_validity(keys_of, key, old.checkpoint.size) == ""


def test_a_receipt_that_a_retired_key_signed_too_late_proves_nothing(
    rotated: Rotated, tmp_path: Path
) -> None:
    """The size under which a receipt stands tells whether its key was in force."""
    archive = tmp_path / "archive"
    shutil.copyfile(Layout(rotated.log).keys, archive)
    for signers, code, word in (
        ([rotated.new, rotated.ed25519], 0, "proven: "),
        ([rotated.old, rotated.ed25519], 1, "outside its validity"),
    ):
        rotated.resign(*signers)
        made = run("receipt", 2, "--log", rotated.log, "--output", tmp_path / "record")
        assert made.exit_code == 0, made.output
        result = run("verify-receipt", tmp_path / "record", "--key", archive)
        assert result.exit_code == code, result.output
        assert word in result.output
