"""`weaver keys`: what is made, what is replaced, what is said, and how it ends."""

import asyncio
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.audit.keys import files as keyfiles
from services.audit.keys.archive import DAY_S, KeyArchive, load_archive
from services.audit.keys.provenance import Provenance
from services.audit.keys.signers import Signer, blocks, generate_rsa, load_rsa, private_pem
from services.audit.layout import Layout
from services.cli import keys
from tests.fakes.auditlog import running_log


def run(*arguments: object) -> Result:
    result: Any = CliRunner().invoke(keys.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result  # type: ignore[no-any-return]


def document(*arguments: object, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout.splitlines()[-1])  # A service in this process may log, too.


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("WEAVER_", "ENVIRONMENT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def where(state: Path) -> Path:
    assert run("generate", "--bits", 2048).exit_code == 0
    return state / "keys"


def fingerprint_of(path: Path) -> str:
    key = load_rsa(path.read_bytes(), "test", production=False)
    return Signer("x", key).verifier.fingerprint


def previous_in(directory: Path) -> list[Path]:
    return list(directory.glob("*.previous.pem"))


def test_generate_makes_files_for_their_owner_and_says_who_and_why(state: Path) -> None:
    made = document(
        "generate", "--bits", 2048, "--reason", "first", "--by", "ann", "--for", "staging"
    )
    private = Path(made["keys"][0]["private_key"])
    assert private == state / "keys" / keyfiles.RSA_FILE
    assert made["keys"][0]["fingerprint"] == fingerprint_of(private)
    assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
    for path in private.parent.iterdir():
        expected = 0o644 if "verification" in path.name else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected
    stated = Provenance.of(private.read_bytes())
    assert (stated.made_by, stated.reason, stated.environment) == ("ann", "first", "staging")
    assert stated.made_on
    assert stated.made_time


def test_generate_never_overwrites_and_says_so(where: Path) -> None:
    before = {path: path.read_bytes() for path in where.iterdir()}
    for missing in (None, keyfiles.RSA_FILE, keyfiles.ED25519_FILE):
        if missing is not None:
            (where / missing).rename(where / "aside")
        result = run("generate", "--bits", 2048)
        assert result.exit_code == 2
        assert "is there already; nothing was made" in result.stderr
        if missing is not None:
            (where / "aside").rename(where / missing)
    assert {path: path.read_bytes() for path in where.iterdir()} == before
    assert run("generate", "--bits", 1024).exit_code == 2


def test_a_key_that_stays_unlocked_beside_a_locked_one_is_said(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE", "sesame")
    result = run("generate", "--bits", "2048")
    assert "audit_ed25519_key.pem is not encrypted" in result.stderr
    assert "WEAVER_AUDIT_ED25519_KEY_PASSPHRASE" in result.stderr


def test_a_passphrase_that_is_set_locks_what_is_made(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = state / "passphrase"
    secret.write_text("open sesame\n")
    secret.chmod(0o600)
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_KEY_PASSPHRASE_FILE", str(secret))
    monkeypatch.setenv("WEAVER_AUDIT_ED25519_KEY_PASSPHRASE", "another")
    run("generate", "--bits", 2048)
    for name in (keyfiles.RSA_FILE, keyfiles.ED25519_FILE):
        assert b"ENCRYPTED PRIVATE KEY" in (state / "keys" / name).read_bytes()
    assert run("check").exit_code == 0
    assert run("rotate", "--bits", 2048).exit_code == 0
    assert run("check").exit_code == 0
    monkeypatch.delenv("WEAVER_AUDIT_ED25519_KEY_PASSPHRASE")
    result = run("check")
    assert result.exit_code == 1
    assert "is encrypted, and no passphrase is set" in result.stdout


def test_rotate_replaces_the_pair_and_keeps_the_old_key_to_endorse(where: Path) -> None:
    rsa = where / keyfiles.RSA_FILE
    old, ed25519 = fingerprint_of(rsa), (where / keyfiles.ED25519_FILE).read_bytes()
    done = document("rotate", "--only", "rsa", "--bits", 2048, "--reason", "leaked", "--by", "bob")
    (key,) = done["keys"]
    assert (key["old_fingerprint"], key["fingerprint"]) == (old, fingerprint_of(rsa))
    assert old != key["fingerprint"]
    assert done["taken"] is False
    assert fingerprint_of(Path(key["previous_key"])) == old
    assert stat.S_IMODE(Path(key["previous_key"]).stat().st_mode) == 0o600
    assert Provenance.of(rsa.read_bytes()).reason == "leaked"
    assert (where / keyfiles.ED25519_FILE).read_bytes() == ed25519
    assert run("check").exit_code == 0  # The public half went along.


def test_rotations_before_any_start_keep_each_key_that_may_have_to_endorse(where: Path) -> None:
    rsa = where / keyfiles.RSA_FILE
    seen = [fingerprint_of(rsa)]
    for _ in range(2):
        run("rotate", "--only", "rsa", "--bits", 2048)
        seen.insert(0, fingerprint_of(rsa))
    kept = blocks(keyfiles.previous_file(rsa).read_bytes())
    found = [Signer("x", load_rsa(pem, "x", production=False)).verifier.fingerprint for pem in kept]
    assert found == seen[1:]
    # Once the log says which key it signs with, that one is enough.
    layout = Layout(where.parent / "audit" / "log")
    layout.log.mkdir(parents=True)
    archive = KeyArchive("log")
    archive.use([Signer("log", load_rsa(kept[0], "x", production=False)).verifier], 1_700_000_000)
    archive.save(layout.keys)
    run("rotate", "--only", "rsa", "--bits", 2048)
    kept = blocks(keyfiles.previous_file(rsa).read_bytes())
    assert [
        Signer("x", load_rsa(pem, "x", production=False)).verifier.fingerprint for pem in kept
    ] == [seen[1]]


def test_rotate_replaces_a_key_that_may_not_be_used_any_more(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (where / keyfiles.RSA_FILE).chmod(0o644)
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert run("check").exit_code == 1
    assert run("rotate", "--bits", 3072).exit_code == 0
    assert run("check").exit_code == 0


def test_rotate_says_what_to_do_where_there_is_no_file(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (where / keyfiles.RSA_FILE).read_text()
    monkeypatch.setenv("WEAVER_TELEMETRY_SIGNING_KEY", text)
    result = run("rotate")
    assert result.exit_code == 2
    assert "WEAVER_TELEMETRY_SIGNING_KEY_PREVIOUS" in result.stderr
    monkeypatch.delenv("WEAVER_TELEMETRY_SIGNING_KEY")
    assert "cannot read the key to replace" in run("rotate", "--directory", where / "no").stderr
    assert run("rotate", "--bits", 1).exit_code == 2
    (where / keyfiles.RSA_FILE).write_text((where / keyfiles.ED25519_FILE).read_text())
    assert "holds no RSA private key" in run("rotate").stderr


async def test_rotate_waits_for_a_running_service_and_then_forgets_the_old_key(
    state: Path, where: Path
) -> None:
    overrides = {"signing_key": None, "ed25519_key": None, "key_poll_seconds": 0.05}
    async with running_log(state, **overrides) as log:
        done = await asyncio.to_thread(document, "rotate", "--bits", 2048)
        assert done["taken"] is True
        active = {term.fingerprint for term in load_archive(Layout(log.log).keys).active}
        assert active == {key["fingerprint"] for key in done["keys"]}
        assert previous_in(where) == []
        (where / keyfiles.RSA_FILE).chmod(0o644)  # The service will refuse what it finds.
        (where / keyfiles.RSA_PUBLIC_FILE).unlink()
        listed = document("list")
        assert [key["state"] for key in listed["keys"]] == ["grace", "grace", "active", "active"]
        assert listed["waiting"] == []


async def test_rotate_says_when_the_service_does_not_take_the_key(state: Path, where: Path) -> None:
    overrides = {"signing_key": None, "ed25519_key": None, "key_poll_seconds": 3_600.0}
    async with running_log(state, **overrides):
        result = run("rotate", "--bits", 2048, "--wait", 0.3)
        assert "the log does not sign with it yet" in run("check").stdout
    assert result.exit_code == 1
    assert "has not taken the keys within 0.3 s" in result.stdout
    assert len(previous_in(where)) == 2


def test_list_shows_keys_that_wait(where: Path, state: Path) -> None:
    result = run("list")
    assert result.exit_code == 0
    assert result.stdout.count("made, never used") == 2
    assert run("list", "--directory", state / "none").exit_code == 2


async def test_list_shows_age_validity_and_fingerprint(state: Path) -> None:
    async with running_log(state):
        pass
    result = run("list")
    assert "signs" in result.stdout
    assert "0 days" in result.stdout
    listed = document("list")
    assert [(key["algorithm"], key["state"]) for key in listed["keys"]] == [
        ("RSA", "active"),
        ("Ed25519", "active"),
    ]
    assert listed["keys"][0]["age_days"] >= 0
    assert run("list", "--public").stdout.count("BEGIN PUBLIC KEY") == 2
    Layout(state / "audit" / "log").keys.write_text("{")
    assert run("list").exit_code == 2


@pytest.mark.parametrize(
    ("days", "code", "word"),
    [(79, 0, "good: "), (81, 0, "warning: "), (89, 0, "warning: "), (91, 1, "bad: ")],
)
def test_check_knows_a_keys_age(where: Path, days: int, code: int, word: str) -> None:
    """A key is replaced at 90 days."""
    made = time.time() - days * DAY_S
    for name in (keyfiles.RSA_FILE, keyfiles.ED25519_FILE):
        text = (where / name).read_bytes().split(b"Weaver-Key-Made-By")[0]
        (where / name).write_bytes(text)
        os.utime(where / name, (made, made))
    result = run("check")
    assert result.exit_code == code
    assert f"{word}{where / keyfiles.ED25519_FILE}: " in result.stdout
    assert ("expired" in result.stdout) is (code == 1)


def test_check_counts_from_the_first_use(where: Path, state: Path) -> None:
    layout = Layout(state / "audit" / "log")
    layout.log.mkdir(parents=True)
    rsa = load_rsa((where / keyfiles.RSA_FILE).read_bytes(), "x", production=False)
    archive = KeyArchive("log")
    archive.use([Signer("log", rsa).verifier], time.time() - 100 * DAY_S)
    archive.save(layout.keys)
    checked = document("check", code=1)
    assert checked["good"] is False
    assert "expired: 100 days old" in checked["keys"][0]["problems"][0]
    archive.use([], time.time() - 50 * DAY_S)
    archive.save(layout.keys)
    assert "was retired" in run("check").stdout


def test_check_finds_places_where_others_can_replace_the_key(where: Path) -> None:
    where.chmod(0o777)
    assert "everybody can replace the key" in "".join(run("check").stdout.split("\n"))
    where.chmod(0o1777)
    assert run("check").exit_code == 0


def test_check_finds_a_key_of_another_environment(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("generate", "--bits", 3072, "--for", "staging")
    assert run("check").exit_code == 0
    monkeypatch.setenv("ENVIRONMENT", "production")
    result = run("check")
    assert result.exit_code == 1
    assert "was made for staging" in result.stdout


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVER_TELEMETRY_KEY_GRACE_DAYS", "many")
    result = run("check")
    assert result.exit_code == 2
    assert "WEAVER_TELEMETRY_KEY_GRACE_DAYS" in result.stderr


def test_no_command_prints_a_private_key(where: Path) -> None:
    for arguments in (["check"], ["list"], ["rotate", "--bits", "2048"], ["check", "--json"]):
        body = private_pem(generate_rsa(2048)).split(b"\n")[1]
        said = run(*arguments).output
        assert "PRIVATE KEY" not in said
        for line in (where / keyfiles.RSA_FILE).read_text().split("\n")[1:20]:
            assert line not in said
        assert body.decode() not in said
