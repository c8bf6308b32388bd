"""What the log tells becomes metrics."""

from pathlib import Path

import pytest

from services.common.errors import AlreadyExists
from tests.fakes.auditlog import RunningLog, record, running_log
from weaver.audit.v1 import audit_service_pb2 as pb


def value(running: RunningLog, name: str, **labels: str) -> float:
    found = running.component.metrics.get_sample_value(name, labels)
    assert found is not None, name
    return found


async def test_appends_checkpoints_and_keys_are_measured(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        await running.append([record(1), record(2)])
        await running.stub.GetReceipt(pb.GetReceiptRequest(index=4))
        other = record(1)
        other.reason = "OTHER"
        with pytest.raises(AlreadyExists):
            await running.append([other])
        assert value(running, "audit_append_total", result="ok") == 5
        assert value(running, "audit_append_total", result="record_conflict") == 1
        assert value(running, "audit_append_seconds_count") == 4
        assert value(running, "audit_signing_seconds_count") >= 1
        assert value(running, "audit_log_size") == 5
        assert value(running, "audit_checkpoint_size") == 5
        assert value(running, "audit_checkpoint_age_seconds") == 0
        assert value(running, "audit_queue_depth") == 0
        for algorithm in ("RSA", "Ed25519"):
            assert 0 <= value(running, "audit_key_age_days", algorithm=algorithm) < 0.01
