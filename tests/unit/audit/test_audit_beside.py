"""What lies beside a log, and what is in it, may be an attacker's too: no hang, no traceback."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.audit.archives.pruning import pruning_attributes, recorded_pruning
from services.audit.layout import Layout
from services.audit.merkle import leaf_hash
from services.audit.note import NoteError
from services.audit.ports import Entry
from services.audit.record import Record, RecordId, encode, summarise
from services.audit.verification.evidence import load_evidence
from services.audit.verification.export import load_manifest
from services.audit.verification.inventory import LogDirectory
from services.audit.verification.offline import OfflineLog
from services.audit.verification.report import Report, printable
from services.audit.verification.verifier import verify
from services.audit.verification.web import WebClient, WebError
from services.cli.audit import app
from tests.fakes.biglog import entries, entry, keys_of, log_of, signer, write_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "keys").write_text(f"{signer().verifier}\n")
    return log_of(tmp_path, 600)


def verify_in_shell(log: Path, *options: str) -> tuple[int, dict[str, object]]:
    command = ["verify", str(log), "--no-remember", "--json", *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["pipe", "directory", "sparse", "link"])
@pytest.mark.parametrize(
    "name", ["log/checkpoint.witnessed", "log.private/accepted", "log.private/checkpoints.jsonl"]
)
def test_a_remembered_checkpoint_that_is_no_plain_file_is_damage_and_no_hang(
    log: Path, tmp_path: Path, name: str, kind: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    status, said = verify_in_shell(log, "--keys", str(tmp_path / "keys"))
    assert (status, said["good"]) == (1, False)


@pytest.mark.parametrize("kind", ["pipe", "directory"])
def test_a_checkpoint_that_is_no_plain_file_is_named(log: Path, tmp_path: Path, kind: str) -> None:
    (log / "checkpoint").unlink()
    if kind == "pipe":
        os.mkfifo(log / "checkpoint")
    else:
        (log / "checkpoint").mkdir()
    assert recorded_pruning(LogDirectory(log)) == 0
    status, said = verify_in_shell(log, "--keys", str(tmp_path / "keys"))
    assert (status, said["good"]) == (1, False)


def test_the_keys_beside_a_log_are_not_waited_for(log: Path) -> None:
    os.mkfifo(Layout(log).keys)
    assert verify_in_shell(log)[0] == 1


def test_an_entry_that_is_nested_without_end_is_no_record() -> None:
    with pytest.raises(ValueError, match="nested"):
        summarise(b'{"a":' * 10_000 + b"1" + b"}" * 10_000)


def test_a_finding_holds_nothing_that_a_terminal_obeys() -> None:
    report = Report()
    report.add("integrity", "inserted", "tile/\x1b[2J\udcff\n is new", path="tile/\x1b[2J")
    assert report.findings[0].message == "tile/\\x1b[2J\\udcff\\n is new"
    assert report.findings[0].path == "tile/\\x1b[2J"
    assert printable("plain é") == "plain é"


def test_the_end_of_an_older_log_in_the_place_of_the_newer_one_is_truncation(
    log: Path, tmp_path: Path
) -> None:
    older = log_of(tmp_path / "older", 560)
    for level in ("0", "entries"):
        (log / f"tile/{level}/002.p/88").unlink()
        path = f"tile/{level}/002.p/48"
        (log / path).write_bytes((older / path).read_bytes())
    report = verify(log, keys_of())
    assert (report.findings[0].kind, report.first_bad_index) == ("truncated", 560)
    assert report.good_records == 560


@pytest.mark.parametrize(
    ("place", "replaced"),
    [
        ('"count":1', '"count":9,"count":1'),
        ('"record":', '"record":{"count":9},"record":'),
        ('"index":', '"index":3,"index":'),
    ],
)
def test_a_receipt_in_which_a_name_stands_twice_is_refused(
    tmp_path: Path, place: str, replaced: str
) -> None:
    """One reader would see the first of them while this one proves the last."""
    record = write_log(tmp_path, [[entry(1, count=1), entry(2)]])
    receipt = OfflineLog(record).receipt(0)
    said = json.dumps({"index": 0, "record": "@", "proof": str(receipt)}, separators=(",", ":"))
    said = said.replace('"@"', entry(1, count=1).data.decode())
    path = tmp_path / "receipt.json"
    path.write_text(said)
    assert load_evidence(path).entry == entry(1, count=1).data
    path.write_text(said.replace(place, replaced))
    assert path.read_text() != said
    with pytest.raises(NoteError, match="twice"):
        load_evidence(path)


def announcement(end: int) -> Entry:
    """Return a record by which the audit service says that it pruned."""
    attributes = pruning_attributes(end, "2026-01-02T00:00:00.000000Z", "")
    record = Record(
        id=RecordId(1, "audit-0", 1),
        version=1,
        type="administration",
        event_time="2026-01-02T00:00:00.000000Z",
        attributes=attributes,
    )
    data = encode(record)
    return Entry(data, leaf_hash(data), record.id, None)


def test_a_pruning_that_a_changed_record_announces_is_not_believed(tmp_path: Path) -> None:
    log = log_of(tmp_path, 600)
    bundle = [one.data for one in entries(512, 600)]
    bundle[3] = announcement(512).data
    path = log / "tile/entries/002.p/88"
    path.write_bytes(b"".join(len(one).to_bytes(2, "big") + one for one in bundle))
    for name in ("000", "001"):
        (log / "tile/entries" / name).unlink()
    report = verify(log, keys_of(), pruned=recorded_pruning(LogDirectory(log)))
    assert (report.findings[0].kind, report.first_bad_index) == ("missing", 0)
    assert report.pruned == 0


@pytest.mark.parametrize("credential", ["a\nb", "a\x00", "ünï"])
def test_a_credential_that_no_header_can_hold_is_refused_without_showing_it(
    credential: str,
) -> None:
    with pytest.raises(WebError, match="credential") as refused:
        WebClient("https://log.test", credential=credential)
    assert credential not in str(refused.value)


def test_an_export_that_is_not_there_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{signer().verifier}\n")
    arguments = ["verify-export", str(tmp_path / "x.jsonl"), "--key", str(tmp_path / "keys")]
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 10_000])
def test_a_manifest_that_is_nested_without_end_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest").write_bytes(data)
    with pytest.raises(NoteError, match="no manifest"):
        load_manifest(tmp_path / "manifest")
