"""A slow disk: back-pressure, deadlines, bounded queues, and no number that is lost."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.common.clock import SystemClock
from services.common.errors import ResourceExhausted, Unavailable, WeaverError
from services.common.local import LocalChannel
from services.gateway.audit_client import AuditClient
from services.gateway.events import Event, EventType
from services.gateway.recorder import Recorder
from tests.fakes.auditlog import record
from tests.faults import workload
from tests.faults.aftermath import check, heard, verify_log
from tests.faults.processes import traced
from tests.faults.workload import Client, Said

MAX_PENDING = 1_000
SIZE = 250
WAITING = [list(range(first, first + SIZE)) for first in range(1, 20 * SIZE, SIZE)]
EVENTS = 400
SEGMENTS = 200


def slow(log: Path, delay_ms: int, nth: str = "4+", also: str = "") -> list[str]:
    """Return the options that make synchronising the write-ahead log slow."""
    wal = log / "audit" / "log.private" / "wal"
    paths = [part for i in range(1, SEGMENTS) for part in ("-P", str(wal / f"{i:012d}.wal"))]
    delay = f"inject=fdatasync:delay_enter={delay_ms * 1000}{also}:when={nth}"
    return ["-e", "trace=fdatasync", "-e", delay, *paths]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


async def crowd(client: Client) -> None:
    """Append from many sides at once, and look at what waits."""
    deepest = 0.0
    registry = client.running.component.metrics

    async def watch() -> None:
        nonlocal deepest
        while True:
            depth = registry.get_sample_value("audit_queue_depth")
            deepest = max(deepest, depth or 0.0)
            await asyncio.sleep(0.005)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client.append(batch) for batch in WAITING))
    watching.cancel()
    assert 0 < deepest <= MAX_PENDING


def test_a_slow_disk_pushes_back_and_takes_everything_in_the_end(log: Path) -> None:
    status, lines, errors = traced(
        lambda pipe: workload.run(log, crowd, workload.writer(pipe), max_pending=MAX_PENDING),
        slow(log, 150),
        log.parent / "trace",
    )
    assert status == 0, errors
    said = heard(lines)
    assert {line.refused for line in said} - {""} == {"QUEUE_FULL"}
    check(log, WAITING, said)


async def impatient(client: Client) -> None:
    """Give up on an append, then repeat it."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.running.append([record(1)])
    assert loop.time() - started < 0.4, "the deadline held"
    health = client.running.component.health
    async with asyncio.timeout(5):
        while health.serving:
            await asyncio.sleep(0.01)
    assert "does not answer" in health.snapshot()["disk"][1]
    await client.append([1])
    await client.append([2])
    async with asyncio.timeout(5):
        while not health.serving:
            await asyncio.sleep(0.01)


def test_a_deadline_holds_and_a_disk_that_does_not_answer_shows(log: Path) -> None:
    status, lines, errors = traced(
        lambda pipe: workload.run(log, impatient, workload.writer(pipe), stall_s=0.3),
        slow(log, 1_000, nth="4..5"),
        log.parent / "trace",
    )
    assert status == 0, errors
    check(log, [[1], [2]], heard(lines))


class Silent:
    """Hears of stalls and says nothing."""

    def recorded(self, events: int) -> None: ...

    def stalled(self, error: WeaverError | None) -> None: ...

    def replaced(self, error: WeaverError) -> None:
        pytest.fail(f"replaced: {error}")

    def rejected(self, error: WeaverError) -> None:
        pytest.fail(f"rejected: {error}")


async def recording(client: Client) -> None:
    """Record as a gateway does: its numbers must have no hole, whatever the disk does."""
    channel: Any = LocalChannel("gateway")
    client.running.component.register(channel)
    audit = AuditClient(channel, append_timeout_s=0.2, read_timeout_s=1)
    recorder = Recorder(audit, Silent(), instance="gateway-a", clock=SystemClock(), patience_s=0.1)
    refused, futures = 0, []
    for number in range(EVENTS):
        event = Event(EventType.REFUSAL, float(number), reason="RATE_LIMITED")
        try:
            futures.append(recorder.submit(event, must=number % 4 == 0))
        except Unavailable:
            refused += 1
        await asyncio.sleep(0.002)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert await recorder.close(20) == 0
    told = [result for result in results if not isinstance(result, BaseException)]
    assert len({reference.index for reference in told}) == len(told)
    assert all(isinstance(r, Unavailable) for r in results if isinstance(r, BaseException))
    client.say(Said(sequences=[len(futures), refused]))


@pytest.mark.parametrize("fault", ["", ":error=EIO"])
def test_a_gateways_recorder_loses_no_number_over_a_slow_and_failing_disk(
    log: Path, fault: str
) -> None:
    status, lines, errors = traced(
        lambda pipe: workload.run(log, recording, workload.writer(pipe)),
        slow(log, 300, nth="6..9", also=fault),
        log.parent / "trace",
    )
    assert status == 0, errors
    (numbers,) = [line.sequences for line in heard(lines) if line.sequences]
    assert sum(numbers) == EVENTS
    # A hole in the numbers would be a finding.
    report = verify_log(log)
    assert report["records"] == numbers[0] + 4


async def large(client: Client) -> None:
    """Append batches at the limit of size; what waits is bounded in bytes."""
    stuffed = []
    for first in range(1, 3_001, 250):
        batch = [record(i) for i in range(first, first + 250)]
        for message in batch:
            message.attributes["filler"] = "x" * 60_000
        stuffed.append(batch)
    results = await asyncio.gather(
        *(client.running.append(batch) for batch in stuffed), return_exceptions=True
    )
    full = [r for r in results if isinstance(r, ResourceExhausted)]
    assert full, "180 MB do not wait"
    assert {error.reason for error in full} == {"QUEUE_FULL"}
    assert any(isinstance(result, list) for result in results)


def test_what_waits_is_bounded_in_bytes(log: Path) -> None:
    status, _, errors = traced(
        lambda pipe: workload.run(log, large, workload.writer(pipe)),
        slow(log, 300),
        log.parent / "trace",
    )
    assert status == 0, errors
    assert verify_log(log)["good"]
