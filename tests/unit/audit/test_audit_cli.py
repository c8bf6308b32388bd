"""`weaver audit` and `weaver keys`: what they print and how they exit."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from services.audit.checkpoint import parse_signed_checkpoint
from services.audit.keys.files import ED25519_FILE, RSA_FILE, RSA_PUBLIC_FILE
from services.audit.keys.signers import generate_rsa, private_pem
from services.cli import audit, keys
from tests.fakes.auditlog import files_of, intent, outcome, record, running_log
from weaver.audit.v1 import audit_service_pb2


def run(app: Typer, *arguments: object) -> Result:
    result: Any = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result  # type: ignore[no-any-return]


@pytest.fixture
async def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("WEAVER_AUDIT_PATH", raising=False)
    async with running_log(tmp_path) as running:
        await running.append([intent(1), outcome(2, of=1), intent(3), record(4)])
    return running.log


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def test_verify_finds_the_log_in_a_directory_that_holds_it_as_in_an_archive(log: Path) -> None:
    result = run(audit.app, "verify", log.parent)
    assert result.exit_code == 0, result.output
    assert f"log          {log} " in result.stdout
    (log / "checkpoint").unlink()
    nested = log / "log"
    nested.mkdir()
    (log / "tile").replace(nested / "tile")
    (log / "tile").mkdir()
    damaged = run(audit.app, "verify", log)
    assert damaged.exit_code == 1, "a log without its checkpoint is damaged, and no archive"


def test_verify_says_how_many_records_and_checkpoints_are_good(log: Path) -> None:
    result = run(audit.app, "verify")
    assert result.exit_code == 0
    assert "records      8 of 8 good" in result.stdout
    assert "checkpoints  " in result.stdout
    assert "interrupted: record 5, intent gateway-test/" in result.stdout
    assert result.stdout.endswith("the log is good\n")
    assert "\x1b" not in result.stdout


def test_verify_names_what_is_wrong_and_exits_1(log: Path) -> None:
    for name in ("checkpoint", "tile/entries/000.p/8", "tile/0/000.p/8"):
        flip(log / name)
        result = run(audit.app, "verify", log)
        assert result.exit_code == 1
        assert name in result.stdout
        assert result.stdout.endswith("the log is DAMAGED\n")
        flip(log / name)
    assert run(audit.app, "verify", log).exit_code == 0


def test_verify_writes_json(log: Path) -> None:
    document = json.loads(run(audit.app, "verify", "--json").stdout)
    assert document["good"]
    assert document["records"] == document["good_records"] == 8
    assert [item["index"] for item in document["interrupted"]] == [5]
    flip(log / "tile" / "entries" / "000.p" / "8")
    result = run(audit.app, "verify", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (document["good"], document["integrity"], document["signatures"]) == (False, False, True)
    assert document["first_bad_index"] == 7
    assert document["findings"][0]["path"] == "tile/entries/000.p/8"


def test_verify_finds_damage_beside_the_log(log: Path) -> None:
    for path in (log.with_name("log.keys"), log.with_name("log.private") / "checkpoints.jsonl"):
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"', b"'", 1))
        for arguments in (["verify"], ["verify", "--json"]):
            assert run(audit.app, *arguments).exit_code == 1
        path.write_bytes(data)
    assert run(audit.app, "verify").exit_code == 0


def test_verify_takes_an_auditors_own_key(log: Path, tmp_path: Path) -> None:
    pem = json.loads(log.with_name("log.keys").read_text())["keys"][0]["public_key_pem"]
    (tmp_path / "own.pem").write_text(pem)
    result = run(audit.app, "verify", log, "--keys", tmp_path / "own.pem")
    assert result.exit_code == 0
    assert "not checked" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "/nonexistent"],
        ["verify", "--keys", "/nonexistent"],
        ["list", "--type", "nonsense"],
        ["list", "--since", "yesterday"],
        ["show", "99"],
        ["receipt", "99"],
        ["show", "0", "--log", "/proc"],
        ["verify-receipt", "/nonexistent", "--key", "/nonexistent"],
        ["nonsense"],
    ],
)
def test_a_wrong_call_exits_2_with_a_sentence(log: Path, arguments: Sequence[str]) -> None:
    result = run(audit.app, *arguments)
    assert result.exit_code == 2
    assert result.stderr


def test_list_filters(log: Path) -> None:
    lines = run(audit.app, "list", "--tenant", "acme").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["index", "6", "5", "4", "3"]

    def listed(*options: str) -> list[int]:
        result = run(audit.app, "list", "--json", *options)
        return [json.loads(line)["index"] for line in result.stdout.splitlines()]

    assert listed("--ascending", "--limit", "2") == [0, 1]
    assert listed("--type", "intent", "--type", "outcome") == [5, 4, 3]
    assert listed("--request-id", "request-4") == [6]
    assert listed("--subject", "subject-0") == [5]
    assert listed("--since", "2023-11-14T22:13:22Z", "--until", "2023-11-14T23:13:23+01:00") == [4]


@pytest.mark.parametrize("while_it_runs", [True, False])
async def test_list_finds_people_by_name_under_their_pseudonyms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, while_it_runs: bool
) -> None:
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    monkeypatch.delenv("WEAVER_AUDIT_PATH", raising=False)

    def listed() -> Result:
        return run(audit.app, "list", "--json", "--subject", "subject-0")

    async with running_log(tmp_path, principal="pseudonym") as running:
        await running.append([intent(1), outcome(2, of=1), intent(3)])
        await running.stub.GetReceipt(audit_service_pb2.GetReceiptRequest(index=5))
        during = listed()
    before = files_of(running.log.parent)
    after = listed()
    result = during if while_it_runs else after
    assert [json.loads(line)["index"] for line in result.stdout.splitlines()] == [5]
    assert "subject-0" not in result.stdout
    assert files_of(running.log.parent) == before
    # Who has not the side store's key finds nobody by name, and is told.
    monkeypatch.setenv("WEAVER_AUDIT_STORE_KEY", "0" * 64)
    result = listed()
    assert (result.exit_code, result.stdout) == (0, "")
    assert "WEAVER_AUDIT_STORE_KEY" in result.stderr


def test_show_prints_a_record(log: Path) -> None:
    shown = run(audit.app, "show", "3")
    raw = run(audit.app, "show", "3", "--raw")
    assert json.loads(shown.stdout) == json.loads(raw.stdout)
    assert json.loads(raw.stdout)["type"] == "intent"


def test_a_receipt_is_checked_with_a_public_key_alone(log: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    assert run(audit.app, "receipt", "4", "--output", own / "r.json").exit_code == 0
    pem = json.loads(log.with_name("log.keys").read_text())["keys"][1]["public_key_pem"]
    (own / "key.pem").write_text(pem)
    result = run(audit.app, "verify-receipt", own / "r.json", "--key", own / "key.pem")
    assert result.exit_code == 0
    assert result.stdout.startswith("proven: record 4 of weaver.local/development/audit-0")
    flip(own / "r.json")
    result = run(audit.app, "verify-receipt", own / "r.json", "--key", own / "key.pem")
    assert result.exit_code == 1
    assert "not proven" in result.stderr


def test_keys_are_made_once_and_checked(tmp_path: Path) -> None:
    where = tmp_path / "keys"
    result = run(keys.app, "generate", "--directory", where, "--bits", "2048")
    assert result.exit_code == 0
    assert f"WEAVER_TELEMETRY_SIGNING_KEY_FILE={where / RSA_FILE}" in result.stdout
    assert where.stat().st_mode & 0o777 == 0o700
    assert (where / RSA_FILE).stat().st_mode & 0o777 == 0o600
    before = (where / RSA_FILE).read_bytes()
    again = run(keys.app, "generate", "--directory", where)
    assert again.exit_code == 2
    assert (where / RSA_FILE).read_bytes() == before
    result = run(keys.app, "check", "--directory", where)
    assert result.exit_code == 0
    assert "2048 bits; 4096 are better" in result.stdout
    assert run(keys.app, "generate", "--bits", "1024", "--directory", tmp_path).exit_code == 2


def test_keys_check_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "keys"
    run(keys.app, "generate", "--directory", where, "--bits", "2048")

    def output(code: int) -> str:
        result = run(keys.app, "check", "--directory", where)
        assert result.exit_code == code
        return str(result.stdout)

    (where / RSA_FILE).chmod(0o644)
    assert "can be read by everybody" in output(1)
    (where / RSA_FILE).chmod(0o640)
    assert "can be read by its group" in output(1)
    (where / RSA_FILE).chmod(0o600)
    monkeypatch.setenv("ENVIRONMENT", "production")
    assert "at least 3072" in output(1)
    monkeypatch.delenv("ENVIRONMENT")
    (where / RSA_FILE).write_bytes(private_pem(generate_rsa(2048)))
    assert "not the public half" in output(1)
    (where / RSA_PUBLIC_FILE).unlink()
    (where / ED25519_FILE).write_text("nonsense")
    assert "holds no private key" in output(1)


def test_keys_list_shows_every_key(log: Path) -> None:
    result = run(keys.app, "list")
    assert result.exit_code == 0
    assert ["RSA" in result.stdout, "Ed25519" in result.stdout] == [True, True]
    document = json.loads(run(keys.app, "list", "--json").stdout)
    assert [key["start_record"] for key in document["keys"]] == [0, 1]
    assert run(keys.app, "list", "--log", "/nonexistent").exit_code == 2


def test_verify_remembers_what_it_accepted_and_refuses_a_log_that_went_back(
    log: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(log, tmp_path / "old")
    shutil.copyfile(log.with_name("log.keys"), tmp_path / "old.keys")
    keys_file = log.with_name("log.keys")
    shorter = parse_signed_checkpoint((old / "checkpoint").read_bytes()).checkpoint.size
    assert run(audit.app, "verify", log, "--since", "last").exit_code == 2
    assert run(audit.app, "verify", log).exit_code == 0
    (kept,) = {path.read_bytes() for path in (tmp_path / "auditor").iterdir()}
    assert kept == (log / "checkpoint").read_bytes()
    result = run(audit.app, "verify", log, "--since", "last")
    assert f"the first {shorter} rest on the checkpoint that was kept" in result.stdout

    forged = kept.decode().split("\n")
    ahead = tmp_path / "ahead"
    ahead.write_text("\n".join([forged[0], "9999", *forged[2:]]))
    result = run(audit.app, "verify", old, "--keys", keys_file, "--since", ahead)
    assert result.exit_code == 1
    assert "rolled back" in result.stdout
    for path in (tmp_path / "auditor").iterdir():
        path.write_bytes(ahead.read_bytes())
    assert run(audit.app, "verify", old, "--keys", keys_file).exit_code == 1
    assert run(audit.app, "verify", old, "--keys", keys_file, "--no-remember").exit_code == 0
    for path in (tmp_path / "auditor").iterdir():
        path.write_bytes(b"nonsense")
    result = run(audit.app, "verify", log)
    assert result.exit_code == 2
    assert "--no-remember" in result.stderr


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_verify_refuses_a_kept_checkpoint_that_is_none(
    log: Path, tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "kept").write_text(content)
    result = run(audit.app, "verify", log, "--since", tmp_path / "kept")
    assert result.exit_code == 2
    assert "--since" in result.stderr


def test_an_address_that_cannot_be_read_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEAVER_API_KEY", "secret")
    result = run(audit.app, "verify", "http://log.example")
    assert result.exit_code == 2
    assert "in the clear" in result.stderr
    assert "secret" not in result.stderr
    assert run(audit.app, "verify", "https://log.example", "--ca", tmp_path / "x").exit_code == 2
