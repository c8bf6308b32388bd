"""The log as a whole: acknowledgement, idempotency, failing disks, one writer, restarts."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.verification.verifier import verify
from services.common.errors import AlreadyExists, ResourceExhausted, Unavailable
from services.common.settings import SettingsError
from tests.fakes.auditlog import EPOCH, RunningLog, files_of, intent, outcome, record, running_log
from tests.fakes.waiting import eventually
from weaver.audit.v1 import audit_service_pb2 as pb


def assert_good(log: Path, records: int) -> None:
    report = verify(log, load_keys(Layout(log).keys))
    assert report.findings == []
    assert report.size == records


async def sequences(running: RunningLog) -> list[int]:
    """Return the sequence numbers of the gateway's records, in the order of the log."""
    found = []
    token = ""
    while True:
        response = await running.stub.ListRecords(
            pb.ListRecordsRequest(
                filter=pb.RecordFilter(tenant="acme"), ascending=True, page_token=token
            )
        )
        found += [int(r.entry.split(b'"sequence":')[1].split(b"}")[0]) for r in response.records]
        token = response.next_page_token
        if not token:
            return found


def failing(error: OSError) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


async def test_records_get_indexes_in_order_behind_the_services_own(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        first = await running.append([record(1), record(2)])
        assert first == [3, 4]  # Two keys and the start come before.
        assert await running.append([record(3)]) == [5]
    assert_good(running.log, 7)


async def test_an_append_that_is_retried_gets_its_first_indexes(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        first = await running.append([record(1), record(2)])
        assert await running.append([record(1), record(2)]) == first
        assert await running.append([record(2), record(3)]) == [first[1], first[1] + 1]
        assert await running.append([record(4), record(4)]) == [first[1] + 2] * 2
        assert await sequences(running) == [1, 2, 3, 4]
    async with running_log(tmp_path) as running:
        assert await running.append([record(1), record(2)]) == first
        assert await sequences(running) == [1, 2, 3, 4]
    assert verify(running.log, load_keys(Layout(running.log).keys)).good


async def test_concurrent_retries_of_one_record_get_one_index(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        results = await asyncio.gather(*(running.append([record(1)]) for _ in range(20)))
        assert len({tuple(result) for result in results}) == 1
        assert await sequences(running) == [1]


async def test_the_same_id_with_other_content_is_refused_and_nothing_of_its_batch_stays(
    tmp_path: Path,
) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
        other = record(1)
        other.reason = "OTHER"
        with pytest.raises(AlreadyExists, match="used before") as caught:
            await running.append([record(2), other, record(3)])
        assert caught.value.reason == "RECORD_CONFLICT"
        twice = record(4)
        twice.reason = "OTHER"
        with pytest.raises(AlreadyExists):
            await running.append([record(4), twice])
        assert await sequences(running) == [1]
        assert len(await running.append([record(2), record(3), record(4)])) == 3
        assert await sequences(running) == [1, 2, 3, 4]


async def test_a_conflict_fails_its_own_batch_alone(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
        other = record(1)
        other.reason = "OTHER"
        results = await asyncio.gather(
            running.append([record(2)]),
            running.append([record(3), other]),
            running.append([record(4)]),
            return_exceptions=True,
        )
        assert isinstance(results[1], AlreadyExists)
        assert results[0] == [4]
        assert results[2] == [5]


async def test_a_full_queue_refuses_with_a_time_to_come_back(tmp_path: Path) -> None:
    async with running_log(tmp_path, max_pending=1_000) as running:
        batches = [
            running.append([record(i) for i in range(first, first + 500)])
            for first in range(1, 3_001, 500)
        ]
        results = await asyncio.gather(*batches, return_exceptions=True)
        refused = [r for r in results if isinstance(r, ResourceExhausted)]
        assert 1 <= len(refused) <= 5
        assert {r.reason for r in refused} == {"QUEUE_FULL"}
        assert all(r.retry_after_s for r in refused)
        accepted = sum(len(r) for r in results if isinstance(r, list))
        assert len(await sequences(running)) == accepted


@pytest.mark.parametrize("number", [5, 28, 30])
async def test_a_disk_that_refuses_makes_the_service_unhealthy_until_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
        health = running.component.health
        assert health.serving
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", failing(OSError(number, os.strerror(number))))
            patch.setattr(os, "fsync", failing(OSError(number, os.strerror(number))))
            for _ in range(2):
                with pytest.raises(Unavailable) as caught:
                    await running.append([record(2)])
                assert caught.value.reason == "AUDIT_UNAVAILABLE"
            assert not health.serving
            assert health.snapshot()["disk"][0] is False
        await eventually(lambda: health.serving)
        assert health.snapshot()["disk"][0] is True
        assert await running.append([record(2)]) == [4]
        assert await sequences(running) == [1, 2]
    assert_good(running.log, 6)


async def test_tiles_that_cannot_be_written_are_written_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(tmp_path, checkpoint_interval_ms=0) as running:
        health = running.component.health
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(OSError(28, "No space left on device")))
            await running.append([intent(1)])
            await eventually(lambda: not health.serving)
            with pytest.raises(Unavailable):
                await running.append([record(2)])
        await eventually(lambda: health.serving)
        assert await running.append([outcome(2, of=1)]) == [4]
    assert_good(running.log, 6)


async def test_a_second_writer_is_refused_with_a_sentence(tmp_path: Path) -> None:
    async with running_log(tmp_path):
        with pytest.raises(SettingsError, match=f"another process \\(pid {os.getpid()}\\)"):
            async with running_log(tmp_path):
                pass
    async with running_log(tmp_path):
        pass


async def test_a_file_in_the_logs_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    path.write_text("lines")
    with pytest.raises(SettingsError, match=r"WEAVER_AUDIT_PATH: .* is a file"):
        async with running_log(tmp_path, audit_path=path):
            pass
    assert path.read_text() == "lines"


async def test_a_log_keeps_its_origin(tmp_path: Path) -> None:
    async with running_log(tmp_path):
        pass
    archive = Layout(tmp_path / "audit" / "log").keys.read_bytes()
    with pytest.raises(SettingsError, match="WEAVER_AUDIT_ORIGIN"):
        async with running_log(tmp_path, origin="another.example/log"):
            pass
    assert Layout(tmp_path / "audit" / "log").keys.read_bytes() == archive


async def test_the_log_directory_holds_only_what_outsiders_verify(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        await running.append([intent(1)])
        private = Layout(running.log).private
        assert {path.name for path in running.log.iterdir()} <= {"checkpoint", "tile"}
        assert private.stat().st_mode & 0o777 == 0o700
        secrets = Layout(running.log).side_store
        assert secrets.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in files_of(secrets)} == {0o600}
    assert {path.name for path in running.log.iterdir()} == {"checkpoint", "tile"}
    key = intent(1).commitment_key
    assert all(key not in path.read_bytes() for path in running.log.rglob("*") if path.is_file())
    assert all(key not in path.read_bytes() for path in files_of(tmp_path))


async def test_a_lost_index_is_made_anew(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(i) for i in range(1, 400)])
    layout = Layout(running.log)
    for damage in (layout.index.unlink, lambda: layout.index.write_bytes(b"x" * 9_999)):
        damage()
        async with running_log(tmp_path) as running:
            assert await sequences(running) == list(range(1, 400))


async def test_a_log_that_went_back_is_not_continued(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
    old = (running.log / "checkpoint").read_bytes()
    async with running_log(tmp_path) as running:
        await running.append([record(2)])
    (running.log / "checkpoint").write_bytes(old)
    with pytest.raises(SettingsError, match="went back"):
        async with running_log(tmp_path):
            pass
    (running.log / "checkpoint").unlink()
    with pytest.raises(SettingsError, match="is missing, but"):
        async with running_log(tmp_path):
            pass


@pytest.mark.parametrize("name", ["checkpoint", "entries", "0"])
async def test_a_log_with_a_damaged_end_is_not_continued(tmp_path: Path, name: str) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
    (path,) = [
        path
        for path in running.log.rglob("*")
        if path.is_file() and path.name in {"checkpoint", "5"}
        if name in {path.name, path.parent.parent.name}
    ]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SettingsError, match="weaver audit verify"):
        async with running_log(tmp_path):
            pass


async def test_records_acknowledged_before_a_crash_come_into_the_tree(tmp_path: Path) -> None:
    async with running_log(tmp_path, checkpoint_interval_ms=900) as running:
        indexes = await running.append([intent(i) for i in range(1, 601)])
        layout = Layout(running.log)
        wal = {path: path.read_bytes() for path in layout.wal.iterdir()}
        kept = {p: p.read_bytes() for p in (layout.checkpoint, layout.accepted) if p.exists()}
        keys = layout.side_store / "commitment-keys"
        side = keys.read_bytes()
    # Put the directory back to the moment of the acknowledgement.
    for path in layout.wal.iterdir():
        path.unlink()
    for path, data in wal.items():
        path.write_bytes(data)
    for path in (layout.checkpoint, layout.accepted):
        path.unlink()
        if path in kept:
            path.write_bytes(kept[path])
    layout.history.unlink()
    keys.write_bytes(side)
    async with running_log(tmp_path) as running:
        assert await sequences(running) == list(range(1, 601))
        assert await running.append([intent(1)]) == indexes[:1]
    report = verify(running.log, load_keys(layout.keys))
    assert report.findings == []
    assert len(report.interrupted) == 600


async def test_a_cancelled_caller_leaves_its_record_in_the_log(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        task = asyncio.create_task(running.append([record(1)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await running.append([record(2)])
        assert 2 in await sequences(running)
    assert verify(running.log, load_keys(Layout(running.log).keys)).passed("integrity")


async def test_a_restart_writes_its_end_and_start_into_the_log(tmp_path: Path) -> None:
    for _ in range(2):
        async with running_log(tmp_path) as running:
            pass
    async with running_log(tmp_path) as running:
        response = await running.stub.ListRecords(pb.ListRecordsRequest(ascending=True))
    types = [r.entry.split(b'"type":"')[1].split(b'"')[0].decode() for r in response.records]
    pair = ["service_started", "service_stopped"]
    assert types == ["key_rotation", "key_rotation", *pair, *pair, "service_started"]


async def test_records_of_many_tiles_survive_restarts(tmp_path: Path) -> None:
    sequence = 0
    for count in (10, 240, 3, 256, 600):
        async with running_log(tmp_path) as running:
            batch = [record(sequence + i, epoch=EPOCH) for i in range(1, count + 1)]
            sequence += count
            await running.append(batch)
    async with running_log(tmp_path) as running:
        assert await sequences(running) == list(range(1, sequence + 1))
    assert verify(running.log, load_keys(Layout(running.log).keys)).good
    partials = list(running.log.rglob("*.p"))
    assert all(int(path.name[:3]) >= 4 for path in partials if path.parent.name != "1")
