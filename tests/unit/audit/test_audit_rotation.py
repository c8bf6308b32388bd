"""Key rotation: over a restart and in the running service, with a clock that is moved."""

import asyncio
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.audit.history import read_history
from services.audit.keys import files as keyfiles
from services.audit.keys import signers as keys
from services.audit.keys.archive import DAY_S, KeyArchive, load_archive
from services.audit.keys.provenance import Provenance
from services.audit.keys.signatures import load_keys
from services.audit.keys.signers import Signer
from services.audit.layout import Layout
from services.audit.verification.offline import OfflineLog, published_before
from services.audit.verification.remote import parse_listing
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.common.settings import SettingsError
from tests.fakes.auditlog import RunningLog, quick_keys, record, settings_in
from tests.fakes.keyring import DAY_0, Keyring, MovedClock, running
from tests.fakes.waiting import eventually
from weaver.audit.v1 import audit_service_pb2 as pb


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "mounted")


def archive_of(log: Path) -> KeyArchive:
    return load_archive(Layout(log).keys)


def rotations(log: Path) -> list[dict[str, str]]:
    offline = OfflineLog(log)
    found = []
    for index in range(offline.size):
        entry = json.loads(offline.entry(index))
        if entry["type"] == "key_rotation":
            found.append(entry["attributes"])
    return found


def verified(log: Path) -> Report:
    return verify(log, load_keys(Layout(log).keys), history=published_before(log))


def lines_of(log: Path) -> int:
    return (log / "checkpoint").read_text().count("— ")


def sample(log: RunningLog, name: str, **labels: str) -> float | None:
    return log.component.metrics.get_sample_value(name, labels)


async def test_a_key_file_that_changes_is_rotated_without_a_restart(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """The next checkpoint is signed by old and new, and the rotation is a record."""
    async with running(tmp_path, clock, **ring.settings()) as log:
        first = archive_of(log.log).keys[0]
        clock.day(90)
        ring.rotate_rsa()
        await eventually(lambda: sample(log, "audit_key_rotations_total") == 3)
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
        old, _, new = archive_of(log.log).keys
        assert (old.fingerprint, new.replaces) == (first.fingerprint, first.fingerprint)
        endorsement = new.endorsement
        assert endorsement.count("— ") == 3
        assert log.component.health.serving
        await log.append([record(1)])
        await log.stub.GetReceipt(_receipt(0))
        await eventually(lambda: lines_of(log.log) == 2)
    report = verified(log.log)
    assert report.findings == []
    (announced,) = [r for r in rotations(log.log) if r["action"] == "rotated"]
    assert announced == {
        "action": "rotated",
        "algorithm": "RSA",
        "endorsed": "true",
        "environment": "development",
        "made_by": "ann@laptop",
        "made_on": "laptop",
        "made_time": "2026-11-23T10:00:00Z",
        "new_fingerprint": new.fingerprint,
        "noticed_by": announced["noticed_by"],
        "old_accepted_until": "2027-01-19T14:13:20.000Z",
        "old_fingerprint": old.fingerprint,
        "reason": "quarterly",
        "source": "WEAVER_TELEMETRY_SIGNING_KEY_FILE",
    }
    assert old.end_record == new.start_record
    assert old.end_size is not None
    assert new.start_record is not None
    assert int(endorsement.split("\n")[1]) > new.start_record


def _receipt(index: int) -> Any:
    return pb.GetReceiptRequest(index=index)


def _settled(log: Path, unendorsed: int, known: int) -> bool:
    archive = archive_of(log)
    endorsements = [term.endorsement for term in archive.active]
    return endorsements.count("") == unendorsed and len(archive.keys) == known


async def test_rotations_repeat_and_every_checkpoint_stays_verifiable(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """The archive of public keys verifies every historical checkpoint."""
    async with running(tmp_path, clock, **ring.settings()) as log:
        for turn in range(1, 4):
            clock.day(90 * turn)
            await log.append([record(turn)])
            ring.rotate_rsa()
            if turn == 2:
                ring.rotate_ed25519()
            unendorsed, known = (1, 0, 0)[turn - 1], (3, 5, 6)[turn - 1]
            await eventually(partial(_settled, log.log, unendorsed, known))
    history = published_before(log.log)
    assert len(history) >= 3
    report = verified(log.log)
    assert report.findings == []
    assert report.checkpoints >= 3
    assert len(rotations(log.log)) == 6


async def test_over_a_restart_the_previous_key_endorses_the_new_one(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings()):
        pass
    previous = ring.rotate_rsa().decode()
    clock.day(90)
    for _ in range(2):  # Leaving the variable set does no harm.
        async with running(
            tmp_path, clock, **ring.settings(), signing_key_previous=previous
        ) as log:
            new = archive_of(log.log).keys[-1]
            assert new.endorsement.count("— ") == 3
    assert lines_of(log.log) == 2
    assert [r.get("endorsed") for r in rotations(log.log)] == [None, None, "true"]
    assert verified(log.log).findings == []


async def test_without_the_previous_key_the_change_is_recorded_as_unendorsed(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings()):
        pass
    ring.rotate_rsa()
    async with running(tmp_path, clock, **ring.settings()) as log:
        pass
    assert archive_of(log.log).keys[-1].endorsement == ""
    assert [r.get("endorsed") for r in rotations(log.log)] == [None, None, "false"]
    assert verified(log.log).findings == []


async def test_two_rotations_while_the_service_is_down_are_endorsed_by_the_key_it_knows(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings()):
        pass
    bundle = ring.rotate_rsa() + ring.rotate_rsa()
    keyfiles.write(keyfiles.previous_file(ring.rsa), bundle, 0o600, replace=True)
    async with running(tmp_path, clock, **ring.settings()) as log:
        first, *_, new = archive_of(log.log).keys
        assert new.replaces == first.fingerprint
        assert new.endorsement
    assert verified(log.log).findings == []


async def test_without_a_grace_period_the_old_key_endorses_all_the_same(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings(), key_grace_days=0) as log:
        clock.now += 0.0004  # The archive's times are cut to the millisecond.
        old = ring.rotate_rsa()
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
    assert verified(log.log).findings == []
    keyfiles.write(ring.rsa, old, 0o600, replace=True)
    with pytest.raises(SettingsError, match="was retired"):
        async with running(tmp_path, clock, **ring.settings(), key_grace_days=0):
            pass


@pytest.mark.parametrize("bad", ["half", "nonsense", "mode", "weak", "public", "gone"])
async def test_a_bad_new_key_leaves_the_old_one_signing_and_says_so(
    tmp_path: Path,
    ring: Keyring,
    clock: MovedClock,
    bad: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with running(tmp_path, clock, **ring.settings()) as log:
        before = archive_of(log.log)
        good = keys.private_pem(keys.generate_rsa(2048))
        if bad == "gone":
            ring.rsa.unlink()
        else:
            contents: dict[str, bytes | str] = {
                "half": good[:700],
                "nonsense": b"nonsense",
                "mode": good,
                "weak": keys.private_pem(keys.generate_rsa(1024)),
                "public": Signer("x", keys.load_rsa(good, "x", production=False)).verifier.pem,
            }
            content = contents[bad]
            data = content if isinstance(content, bytes) else content.encode()
            mode = 0o644 if bad == "mode" else 0o600
            keyfiles.write(ring.rsa, data, mode, replace=True)
        await eventually(lambda: sample(log, "audit_key_refused") == 1)
        assert log.component.health.serving
        assert log.component.health.snapshot()["key_rotation"][0] is False
        await log.append([record(1)])
        await log.stub.GetReceipt(_receipt(3))
        assert archive_of(log.log).keys == before.keys
        assert sample(log, "audit_key_refusals_total") == 1
        said = capsys.readouterr()
        assert "WEAVER_TELEMETRY_SIGNING_KEY_FILE" in said.out + said.err
        assert "goes on signing" in said.out + said.err
        keyfiles.write(ring.rsa, good, 0o600, replace=True)
        await eventually(lambda: sample(log, "audit_key_refused") == 0)
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
        assert log.component.health.snapshot()["key_rotation"][0] is True
    assert verified(log.log).findings == []


async def test_a_log_whose_archive_of_keys_is_gone_is_left_alone(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """A new archive would begin its keys at this size, and convict every earlier checkpoint."""
    async with running(tmp_path, clock, **ring.settings()) as log:
        await log.append([record(1)])
    path = Layout(log.log).keys
    aside = path.rename(path.with_name("aside"))
    with pytest.raises(SettingsError, match=r"log\.keys is missing .* put a copy of it back"):
        async with running(tmp_path, clock, **ring.settings()):
            pass
    assert not path.exists()
    aside.rename(path)
    async with running(tmp_path, clock, **ring.settings()) as log:
        await log.append([record(2)])
    assert verified(log.log).findings == []


async def test_a_key_that_vanishes_in_development_is_not_made_anew(
    tmp_path: Path, clock: MovedClock
) -> None:
    """A file that is gone while the service runs is a mistake, and no wish for another key."""
    made = {"signing_key": None, "ed25519_key": None, "key_poll_seconds": 0.05}
    async with running(tmp_path, clock, **made) as log:
        before = archive_of(log.log)
        path = settings_in(tmp_path).keys_path / keyfiles.RSA_FILE
        aside = path.rename(path.with_name("aside.pem"))
        await eventually(lambda: sample(log, "audit_key_refused") == 1)
        assert not path.exists()
        assert archive_of(log.log).keys == before.keys
        aside.rename(path)
        await eventually(lambda: sample(log, "audit_key_refused") == 0)
        assert archive_of(log.log).keys == before.keys


async def test_a_hangup_is_judged_at_once(tmp_path: Path, ring: Keyring, clock: MovedClock) -> None:
    settings = {**ring.settings(), "key_poll_seconds": 3600.0}
    async with running(tmp_path, clock, **settings) as log:
        assert log.component.reload is not None
        keyfiles.write(ring.rsa, b"nonsense", 0o600, replace=True)
        log.component.reload()
        await eventually(lambda: sample(log, "audit_key_refused") == 1)
        keyfiles.write(ring.rsa, quick_keys()[0].encode(), 0o600, replace=True)
        log.component.reload()
        await eventually(lambda: sample(log, "audit_key_refused") == 0)
        ring.rotate_rsa()
        log.component.reload()
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)


async def test_the_swap_of_a_mounted_secret_is_one_rotation(
    tmp_path: Path, clock: MovedClock
) -> None:
    """Kubernetes writes a new directory and swaps the link `..data`."""
    mount = tmp_path / "secret"
    rsa, ed25519 = quick_keys()

    def put(name: str, private: str) -> None:
        directory = mount / name
        public = Signer("x", keys.load_rsa(private.encode(), "x", production=False)).verifier.pem
        for file, text in (("signing-key", private), ("verification-key", public)):
            keyfiles.write(directory / file, text.encode(), 0o400, replace=False)
        draft = mount / "..data_tmp"
        draft.symlink_to(name)
        draft.rename(mount / "..data")

    put("..2026_1", rsa)
    for file in ("signing-key", "verification-key"):
        (mount / file).symlink_to(f"..data/{file}")
    settings = {
        "signing_key": rsa,
        "signing_key_file": mount / "signing-key",
        "verification_key_file": mount / "verification-key",
        "ed25519_key": ed25519,
        "key_poll_seconds": 0.05,
    }
    async with running(tmp_path, clock, **settings) as log:
        put("..2026_2", keys.private_pem(keys.generate_rsa(2048)).decode())
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
        assert sample(log, "audit_key_refusals_total") == 0
        assert len(archive_of(log.log).keys) == 3
    assert verified(log.log).findings == []


async def test_a_key_that_is_over_ninety_days_old_shows_and_stops_nothing(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings()) as log:
        health = log.component.health

        async def look() -> tuple[bool, str]:
            await asyncio.sleep(0.15)  # Two looks at least, one of them after the clock moved.
            return health.snapshot()["key_age"]

        for days, seconds, good in ((80, 0, True), (90, -1, True), (90, 0, True), (90, 1, False)):
            clock.day(days, seconds)
            assert (await look())[0] is good
            age = sample(log, "audit_key_age_days", algorithm="RSA")
            assert age == pytest.approx(days + seconds / DAY_S)
        assert "over 90 days" in health.snapshot()["key_age"][1]
        assert health.serving
        ring.rotate_rsa()
        ring.rotate_ed25519()
        await eventually(lambda: all(key.endorsement for key in archive_of(log.log).active))
        assert (await look())[0] is True
        assert sample(log, "audit_key_age_days", algorithm="RSA") == 0


async def test_a_retired_key_may_come_back_until_its_grace_is_over(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """Replaced on day 90, a key is accepted until day 120 and refused a second later."""
    async with running(tmp_path, clock, **ring.settings()):
        pass
    clock.day(90)
    old = ring.rotate_rsa()
    new = ring.rsa.read_bytes()
    async with running(tmp_path, clock, **ring.settings()):
        pass
    keyfiles.write(ring.rsa, old, 0o600, replace=True)
    clock.day(120, 1)
    with pytest.raises(SettingsError, match=r"SIGNING_KEY_FILE: .* was retired at .* accepted"):
        async with running(tmp_path, clock, **ring.settings()):
            pass
    clock.day(120, -1)
    async with running(tmp_path, clock, **ring.settings()) as log:
        # It is as old as at its first use, and not new again.
        assert sample(log, "audit_key_age_days", algorithm="RSA") == pytest.approx(120, abs=0.01)
    keyfiles.write(ring.rsa, new, 0o600, replace=True)
    async with running(tmp_path, clock, **ring.settings()) as log:
        pass
    assert [term.algorithm for term in archive_of(log.log).keys].count("RSA") == 4
    assert verified(log.log).findings == []


async def test_a_key_belongs_to_the_environment_that_used_it_first(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    strong = keys.private_pem(keys.generate_rsa(3072))
    keyfiles.write(ring.rsa, strong, 0o600, replace=True)
    async with running(tmp_path, clock, **ring.settings(), environment="staging") as log:
        pass
    sentence = "WEAVER_TELEMETRY_SIGNING_KEY_FILE: the key .* was first used in staging"
    production = {**ring.settings(), "environment": "production", "tls_dir": tmp_path}
    elsewhere = tmp_path / "elsewhere"
    for overrides in (
        {},  # The same log.
        {"audit_path": tmp_path / "other" / "log"},  # The state directory remembers.
        {"audit_path": log.log.with_name("sister"), "state_dir": elsewhere},  # So does an archive.
        {"origin": "audit.example.com/log", "audit_path": tmp_path / "third" / "log"},
    ):
        with pytest.raises(SettingsError, match=sentence):
            async with running(tmp_path, clock, **{**production, **overrides}):
                pass
    async with running(elsewhere, clock, **production) as log:
        assert "weaver.local/production" in (log.log / "checkpoint").read_text()


async def test_a_key_that_was_made_for_another_environment_is_refused(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    stated = Provenance(environment="staging")
    keyfiles.write_private(ring.rsa, keys.generate_rsa(3072), provenance=stated, replace=True)
    production = {**ring.settings(), "environment": "production", "tls_dir": tmp_path}
    with pytest.raises(SettingsError, match="was made for staging; production needs"):
        async with running(tmp_path, clock, **production):
            pass


async def test_switching_rsa_off_retires_the_key_in_the_log(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    async with running(tmp_path, clock, **ring.settings()):
        pass
    async with running(tmp_path, clock, **ring.settings(), signing_enabled=False) as log:
        assert sample(log, "audit_key_age_days", algorithm="RSA") is None
    assert lines_of(log.log) == 1
    assert rotations(log.log)[-1]["action"] == "retired"
    assert verified(log.log).findings == []
    async with running(tmp_path, clock, **ring.settings()) as log:
        pass
    assert lines_of(log.log) == 2
    assert verified(log.log).findings == []


async def test_a_crash_in_the_middle_of_a_rotation_is_made_up_for(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """The archive knew the new key, and the process died before anything else happened."""
    async with running(tmp_path, clock, **ring.settings()) as log:
        pass
    old = ring.rotate_rsa()
    new = Signer(
        archive_of(log.log).origin, keys.load_rsa(ring.rsa.read_bytes(), "x", production=False)
    ).verifier
    archive = archive_of(log.log)
    archive.use([new, archive.keys[1].key], DAY_0, size=OfflineLog(log.log).size)
    archive.save(Layout(log.log).keys)
    assert verified(log.log).findings == []  # As it lies there after the crash.
    keyfiles.write(keyfiles.previous_file(ring.rsa), old, 0o600, replace=True)
    async with running(tmp_path, clock, **ring.settings()) as log:
        pass
    term = archive_of(log.log).keys[-1]
    assert term.endorsement
    assert archive_of(log.log).keys[0].end_size
    assert verified(log.log).findings == []


async def test_an_auditor_at_a_distance_learns_each_keys_validity(
    tmp_path: Path, ring: Keyring, clock: MovedClock
) -> None:
    """The listing has all that the archive has, but not who made a key and why."""
    async with running(tmp_path, clock, **ring.settings()) as log:
        ring.rotate_rsa("a private reason")
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
        response = await log.stub.ListKeys(pb.ListKeysRequest())
        listed = [json.loads(key.archived) for key in response.keys]
        data = json.dumps({"origin": response.origin, "keys": listed}).encode()
        assert b"a private reason" not in data
        archive = archive_of(log.log)
        for term in archive.keys:
            term.provenance = None
        assert parse_listing(data).keys == archive.keys


async def test_no_private_key_appears_in_what_the_service_says(
    tmp_path: Path, ring: Keyring, clock: MovedClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, clock, **ring.settings()) as log:
        ring.rotate_rsa()
        await eventually(lambda: archive_of(log.log).keys[-1].endorsement)
    bodies = re.findall(r"^[A-Za-z0-9+/]{64}$", ring.rsa.read_text(), re.MULTILINE)
    assert len(bodies) > 10
    said = capsys.readouterr()
    written = said.out + said.err
    for path in (tmp_path / "audit").rglob("*"):
        if path.is_file():
            written += path.read_bytes().decode(errors="replace")
    assert not [body for body in bodies[len(bodies) // 2 : -1] if body in written]


def test_history_is_readable(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none") == []
