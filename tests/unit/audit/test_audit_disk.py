"""What a disk that refuses in odd places does to the log: nothing that outlasts it."""

import asyncio
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.audit import identities, wiring
from services.audit.commit import Limits
from services.audit.history import History, read_history
from services.audit.integration import Integrator
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.metrics import LogMetrics
from services.audit.tiles import TileDirectory
from services.audit.verification.verifier import verify
from services.audit.wal import WriteAheadLog
from services.common.clock import SystemClock
from services.common.errors import ResourceExhausted, Unavailable
from services.common.health import Health
from tests.fakes.auditlog import record, running_log
from tests.fakes.waiting import eventually
from tests.unit.audit.test_audit_stores import signed
from weaver.audit.v1 import audit_service_pb2 as pb


def refusing(*_: object, **__: object) -> Any:
    raise OSError(5, "Input/output error")


def assert_good(log: Path) -> None:
    assert verify(log, load_keys(Layout(log).keys)).findings == []


async def test_a_superseded_tile_that_cannot_be_removed_hides_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=3))
        with monkeypatch.context() as patch:
            patch.setattr(TileDirectory, "remove_partials", refusing)
            (*_, last) = await running.append([record(i) for i in range(2, 300)])
            receipt = await running.stub.GetReceipt(pb.GetReceiptRequest(index=last))
            assert receipt.proof
            assert running.component.health.serving
        await running.append([record(300)])
        partials = running.log / "tile" / "0" / "000.p"
        await eventually(lambda: not partials.exists())
    assert_good(running.log)


async def test_a_tile_that_cannot_be_read_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1)])
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=3))
        monkeypatch.setattr(TileDirectory, "read", refusing)
        with pytest.raises(Unavailable) as caught:
            await running.stub.GetRecord(pb.GetRecordRequest(index=3))
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        assert caught.value.retry_after_s


async def test_ids_that_cannot_be_written_down_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_log(tmp_path) as running:
        first = await running.append([record(1), record(2)])
        monkeypatch.setattr(identities, "save", refusing)
    async with running_log(tmp_path) as running:
        assert await running.append([record(1), record(2)]) == first
    assert_good(running.log)


async def test_a_disk_that_does_not_answer_is_unhealthy_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "Limits", partial(Limits, stall_s=0.05))
    async with running_log(tmp_path) as running:
        health = running.component.health
        commit = WriteAheadLog.commit

        def slowly(*arguments: Any) -> None:
            time.sleep(0.3)
            commit(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(WriteAheadLog, "commit", slowly)
            appending = asyncio.create_task(running.append([record(1)]))
            await eventually(lambda: not health.serving)
            assert health.snapshot()["disk"] == (False, "the disk does not answer")
            assert await appending == [3]
        assert health.serving


async def test_records_that_wait_are_bounded_in_bytes_and_a_refused_batch_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "Limits", partial(Limits, max_pending_bytes=200_000))
    async with running_log(tmp_path) as running:
        batches = []
        for sequence in range(1, 13):
            large = record(sequence)
            large.attributes["filler"] = "x" * 60_000
            batches.append(running.append([large]))
        results = await asyncio.gather(*batches, return_exceptions=True)
        refused = [i for i, r in enumerate(results, 1) if isinstance(r, ResourceExhausted)]
        assert 1 <= len(refused) <= 9
        # The number of a refused record is free for the same record, and gets the next place.
        for sequence in refused:
            (index,) = await running.append([record(sequence)])
            assert index >= 3 + 12 - len(refused)
    assert_good(running.log)


async def test_a_tree_that_is_far_behind_holds_the_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "Limits", partial(Limits, max_behind_bytes=5_000))
    integrate = Integrator.integrate

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.1)
        return integrate(*arguments)

    monkeypatch.setattr(Integrator, "integrate", slowly)
    async with running_log(tmp_path) as running:
        for first in range(1, 101, 20):
            await running.append([record(i) for i in range(first, first + 20)])
    assert_good(running.log)


async def test_commits_wait_for_a_tree_that_is_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring, "Limits", partial(Limits, max_lag_s=0.0))
    integrate = Integrator.integrate

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.3)
        return integrate(*arguments)

    async with running_log(tmp_path) as running:
        value = running.component.metrics.get_sample_value
        monkeypatch.setattr(Integrator, "integrate", slowly)
        furthest = 0.0
        for first in range(1, 4_001, 500):
            await running.append([record(i) for i in range(first, first + 500)])
            behind = (value("audit_log_size") or 0) - (value("audit_checkpoint_size") or 0)
            furthest = max(furthest, behind)
        assert 500 <= furthest <= 1_024 + 500
    assert_good(running.log)


def test_a_checkpoint_that_is_half_written_down_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "history"
    history = History(path)
    history.take(signed(1), 0.0)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:20]))
        with pytest.raises(OSError, match="space"):
            history.take(signed(2), 100.0)
    history.take(signed(3), 200.0)
    assert [c.checkpoint.size for c in read_history(path)] == [1, 3]


def test_a_service_does_not_call_itself_ready_while_its_disk_refuses() -> None:
    health = Health()
    metrics = LogMetrics(CollectorRegistry(), health, SystemClock())
    metrics.disk_failed("commit", OSError(28, "full"))
    metrics.ready()
    assert not health.serving
    metrics.disk_failed("integrate", OSError(28, "full"))
    metrics.disk_recovered("commit")
    assert not health.serving
    metrics.disk_recovered("integrate")
    assert health.serving
