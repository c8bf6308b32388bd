"""Retention: old entries go, every hash stays, and the log itself says what went."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.audit.archives.archiving import Archiver
from services.audit.archives.pruning import (
    ACTION,
    announced_end,
    pruning_attributes,
    recorded_pruning,
)
from services.audit.archives.restoring import restore
from services.audit.archives.retention import PRUNED, Minimum
from services.audit.archives.targets import DirectoryTarget
from services.audit.archives.wiring import ANSWER, REQUEST, PruneRequest, write_message
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.record import Record, RecordId, encode
from services.audit.verification.inventory import LogDirectory
from services.audit.verification.offline import OfflineError, OfflineLog
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from services.audit.wiring import build
from services.cli.__main__ import application
from services.common.clock import SystemClock
from services.common.errors import NotFound
from tests.fakes.auditlog import RunningLog, intent, quick_keys, record, settings_in
from weaver.audit.v1 import audit_service_pb2 as pb

# Records of the tests are from November 2023: far older than any retention.
DAYS = 30
PAST = 1_700_000_000


class PastClock(SystemClock):
    """A clock that is in the past until the log is filled."""

    def __init__(self) -> None:
        self.past = False

    def time(self) -> float:
        return float(PAST) if self.past else super().time()


CLOCK = PastClock()


@asynccontextmanager
async def running_log(state: Path, **overrides: object) -> AsyncIterator[RunningLog]:
    """Run an audit service; one that is new begins in the past."""
    settings = settings_in(state, **overrides)
    CLOCK.past = not settings.log_path.exists()
    async with AsyncExitStack() as stack:
        component = await build(settings, stack, clock=CLOCK)
        running = RunningLog(component, None, settings.log_path)
        yield running._replace(stub=running.stub_of("gateway"))


async def fill(running: RunningLog, count: int = 1_200) -> None:
    for start in range(1, count, 200):
        await running.append([intent(number) for number in range(start, start + 200)])
    CLOCK.past = False


def archive(log: Path, place: Path) -> None:
    report = Archiver(Layout(log), DirectoryTarget(place)).run(lambda _done, _size: None)
    assert report.good


async def prune(log: Path, days: int = DAYS) -> dict[str, Any]:
    """Ask the running service as `weaver audit prune` does, and return its answer."""
    layout = Layout(log)
    token = f"test-{time.monotonic_ns()}"
    write_message(layout.private / REQUEST, PruneRequest(token, days))
    for _ in range(200):
        await asyncio.sleep(0.05)
        answer = layout.private / ANSWER
        if answer.exists():
            document: dict[str, Any] = json.loads(answer.read_bytes())
            if document["token"] == token:
                return document
    pytest.fail("the service did not answer")


def check(log: Path, pruned: int | None = None) -> Report:
    end = recorded_pruning(LogDirectory(log)) if pruned is None else pruned
    return verify(log, load_keys(Layout(log).keys), pruned=end)


def bundles(log: Path) -> list[str]:
    return sorted(path.name for path in (log / "tile" / "entries").iterdir() if path.is_file())


@pytest.fixture
async def pruned(tmp_path: Path) -> Path:
    """A log of which all that may go is gone, and its archive."""
    async with running_log(tmp_path / "state") as running:
        await fill(running)
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=1_200))
        archive(running.log, tmp_path / "archive")
        answer = await prune(running.log)
        assert (answer["before"], answer["minimum"], answer["error"]) == (0, 1_024, "")
        return running.log


async def test_a_pruned_log_verifies_and_says_what_was_pruned(pruned: Path) -> None:
    assert bundles(pruned) == []
    report = check(pruned)
    assert report.findings == []
    assert report.pruned == 1_024
    assert report.document()["pruned"] == 1_024


async def test_bundles_that_are_missing_outside_of_a_recorded_pruning_are_damage(
    tmp_path: Path,
) -> None:
    async with running_log(tmp_path / "state") as running:
        await fill(running)
    path = running.log / "tile" / "entries" / "000"
    path.unlink()
    assert recorded_pruning(LogDirectory(running.log)) == 0
    report = check(running.log)
    assert not report.passed("integrity")
    assert any(f.path == "tile/entries/000" and f.kind == "missing" for f in report.findings)


async def test_a_forger_cannot_widen_what_was_pruned(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        await fill(running)
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=1_200))
        archive(running.log, tmp_path / "archive")
        await prune(running.log)
        await fill_more(running)
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=1_900))
    (running.log / "tile" / "entries" / "005").unlink()
    report = check(running.log)
    assert not report.passed("integrity")
    assert report.first_bad_index == 1_280


async def fill_more(running: RunningLog) -> None:
    for start in range(1_201, 2_200, 200):
        await running.append([record(number) for number in range(start, start + 200)])


def entry(**changes: object) -> bytes:
    values: dict[str, object] = {
        "attributes": pruning_attributes(512, "t", ""),
        "event_time": "t",
        "id": RecordId(1, "audit-0", 1),
        "type": "administration",
        "version": 1,
        **changes,
    }
    return encode(Record(**values))  # type: ignore[arg-type]


def test_only_the_log_itself_can_announce_a_pruning() -> None:
    assert announced_end(entry()) == 512
    assert announced_end(entry(id=RecordId(1, "audit", 1))) == 512
    for instance in ("gateway-1", "auditor", "gateway-audit-0", "xaudit-0"):
        assert announced_end(entry(id=RecordId(1, instance, 1))) == 0
    assert announced_end(entry(type="refusal")) == 0
    assert announced_end(entry(attributes={"action": "other", "note": ACTION})) == 0
    assert announced_end(entry(attributes={"action": ACTION, "end_record": "-1"})) == 0
    assert announced_end(entry(attributes={"action": ACTION})) == 0
    assert announced_end(f'{{"action":"{ACTION}"}}'.encode()) == 0


async def test_nothing_is_pruned_that_is_not_archived(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        await fill(running)
        assert (await prune(running.log))["minimum"] == 0
        archive(running.log, tmp_path / "archive")
        size = json.loads((Layout(running.log).private / "archived").read_bytes())["size"]
        await fill_more(running)
        assert (await prune(running.log))["minimum"] == size // 256 * 256


async def test_an_archive_of_another_log_allows_no_pruning(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        await fill(running)
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=1_200))
        archive(running.log, tmp_path / "archive")
        marker = Layout(running.log).private / "archived"
        document = json.loads(marker.read_bytes())
        for change in ({"root": "00" * 32}, {"origin": "other"}, {"size": 10**6}):
            marker.write_text(json.dumps({**document, **change}))
            assert (await prune(running.log))["minimum"] == 0
        marker.write_text("{}")
        assert (await prune(running.log))["minimum"] == 0
        marker.write_text(json.dumps(document))
        assert (await prune(running.log))["minimum"] == 1_024


async def test_what_is_not_archived_goes_when_a_setting_says_so(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state", retention_unarchived=True) as running:
        await fill(running)
        assert (await prune(running.log))["minimum"] >= 1_024
    assert check(running.log).good


async def test_what_is_young_stays(tmp_path: Path) -> None:
    since_then = int((time.time() - 1_700_000_000) / 86_400)
    async with running_log(tmp_path / "state", retention_unarchived=True) as running:
        await fill(running)
        assert (await prune(running.log, since_then + 2))["minimum"] == 0
        assert (await prune(running.log, since_then - 2))["minimum"] == 1_024


async def test_a_pruned_record_is_said_to_be_pruned(pruned: Path, tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        stub = running.stub
        for ask, request in (
            (stub.GetRecord, pb.GetRecordRequest(index=7)),
            (stub.GetReceipt, pb.GetReceiptRequest(index=7)),
            (stub.GetTile, pb.GetTileRequest(path="entries/000")),
        ):
            with pytest.raises(NotFound, match=r"pruned.*from 1024 on"):
                await ask(request)
        tile = await running.stub.GetTile(pb.GetTileRequest(path="0/000"))
        assert len(tile.data) == 256 * 32
        kept = await running.stub.GetReceipt(pb.GetReceiptRequest(index=1_030))
        assert kept.proof
        proof = await running.stub.GetConsistencyProof(pb.GetConsistencyProofRequest(first_size=3))
        assert proof.hashes


async def test_listings_begin_where_the_log_does(pruned: Path, tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        page = await running.stub.ListRecords(pb.ListRecordsRequest(page_size=5, ascending=True))
        assert [found.index for found in page.records] == [1_024, 1_025, 1_026, 1_027, 1_028]
    assert OfflineLog(pruned).first_kept == 1_024
    with pytest.raises(OfflineError, match="was pruned"):
        OfflineLog(pruned).entry(7)


async def test_the_service_goes_on_after_pruning_and_knows_what_came_before(
    pruned: Path, tmp_path: Path
) -> None:
    (Layout(pruned).private / "index.db").unlink()
    async with running_log(tmp_path / "state") as running:
        assert await running.append([intent(1_199)])  # Known, and acknowledged as it was.
        (index,) = await running.append([record(5_000)])
        assert index > 1_200
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=index))
        page = await running.stub.ListRecords(pb.ListRecordsRequest(page_size=1, ascending=True))
        assert page.records[0].index == 1_024
    assert check(pruned).passed("integrity")
    assert check(pruned).passed("signatures")


async def test_a_pruning_that_broke_off_is_finished_at_the_next_start(
    pruned: Path, tmp_path: Path
) -> None:
    layout = Layout(pruned)
    copy = tmp_path / "archive" / "log" / "tile" / "entries"
    for name in ("002", "003"):
        (pruned / "tile" / "entries" / name).write_bytes((copy / name).read_bytes())
    (layout.private / PRUNED).write_text('{"end":1024,"removed":0}')
    assert check(pruned).good
    async with running_log(tmp_path / "state") as running:
        await running.append([record(5_000)])
        await wait_for(lambda: Minimum(layout).removed == 1_024)
    assert bundles(pruned) == []


async def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    pytest.fail("it did not happen")


async def test_commitment_keys_go_with_their_records(pruned: Path, tmp_path: Path) -> None:
    async with running_log(tmp_path / "state") as running:
        reason = await running.stub.GetRecord(pb.GetRecordRequest(index=1_030))
        assert reason.record.entry
    secrets = Path(f"{pruned}.secrets") / "commitment-keys"
    data = secrets.read_bytes()
    slot = (len(data) - 64) // ((len(data) - 64) // 60) if data else 60
    assert data[64 + 10 * slot : 64 + 11 * slot] == b"\xff" * slot


async def test_the_archive_of_a_pruned_log_has_all_of_it(pruned: Path, tmp_path: Path) -> None:
    archive(pruned, tmp_path / "archive")
    restored = restore(
        DirectoryTarget(tmp_path / "archive"), tmp_path / "new" / "log", None, lambda _d, _s: None
    )
    assert restored.report.good
    assert restored.pruned == 0
    assert len(bundles(tmp_path / "new" / "log")) == 4


async def test_a_log_that_was_pruned_before_it_was_archived_is_archived_as_it_is(
    pruned: Path, tmp_path: Path
) -> None:
    archive(pruned, tmp_path / "another")
    assert check(tmp_path / "another" / "log").pruned == 1_024
    place = tmp_path / "new" / "log"
    restored = restore(DirectoryTarget(tmp_path / "another"), place, None, lambda _d, _s: None)
    assert (restored.report.good, restored.pruned) == (True, 1_024)
    state = tmp_path / "started"
    log = state / "audit" / "log"
    restore(DirectoryTarget(tmp_path / "another"), log, None, lambda _d, _s: None)
    async with running_log(state) as running:
        (index,) = await running.append([record(5_000)])
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=index))
        page = await running.stub.ListRecords(pb.ListRecordsRequest(page_size=1, ascending=True))
        assert page.records[0].index == 1_024
        with pytest.raises(NotFound, match="was pruned"):
            await running.stub.GetRecord(pb.GetRecordRequest(index=7))


async def test_a_second_pruning_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    async with running_log(tmp_path / "state", retention_unarchived=True) as running:
        await fill(running)
        assert (await prune(running.log))["minimum"] == 1_024
        # The first pruning's own record is young, and holds what follows.
        await fill_more(running)
        assert (await prune(running.log))["minimum"] == 1_024
    assert check(running.log).good


def test_verify_says_pruned(pruned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["audit", "verify", str(pruned), "--no-remember"]
    result = CliRunner().invoke(application(arguments), arguments)
    assert result.exit_code == 0, result.output
    assert "pruned       1024 records" in result.output


def test_the_command_prunes_a_log_that_nobody_writes(tmp_path: Path) -> None:
    state = tmp_path / "state"

    async def fill_one() -> None:
        async with running_log(state) as running:
            await fill(running, 800)

    asyncio.run(fill_one())
    for name, key in zip(("telemetry_signing", "audit_ed25519"), quick_keys(), strict=True):
        path = state / "keys" / f"{name}_key.pem"
        path.write_text(key)
        path.chmod(0o600)
    environment = {
        "WEAVER_STATE_DIR": str(state),
        "WEAVER_AUDIT_RETENTION_UNARCHIVED": "true",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "services.cli", "audit", "prune", "--older-than", "30"]
    dry = subprocess.run(
        [*command, "--dry-run"], env=environment, capture_output=True, text=True, check=False
    )
    assert "records 0 to 767 would be removed" in dry.stdout, dry.stdout + dry.stderr
    done = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["first_kept"] == 768
    assert recorded_pruning(LogDirectory(state / "audit" / "log")) == 768
