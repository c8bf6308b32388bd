"""The service's own events reach the audit log, and never hold anything up."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.audit_trail import AuditTrail
from services.common.clock import SystemClock
from services.common.errors import Unavailable
from services.ratelimit.degradation import Degradation
from weaver.audit.v1 import audit_service_pb2, record_pb2

Request = audit_service_pb2.AppendRecordsRequest


class Log:
    """An audit service that can be away."""

    def __init__(self) -> None:
        self.records: list[record_pb2.Record] = []
        self.up = asyncio.Event()
        self.up.set()
        self.tries = 0
        self.changed = asyncio.Condition()

    async def append(self, request: Request) -> None:
        async with self.changed:
            self.tries += 1
            self.changed.notify_all()
        if not self.up.is_set():
            msg = "The audit service is away."
            raise Unavailable(msg)
        async with self.changed:
            self.records.extend(request.records)
            self.changed.notify_all()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.records) >= count)

    async def until_tried(self, count: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.tries >= count)


@pytest.fixture
async def log() -> Log:
    return Log()


@pytest.fixture
async def trail(log: Log) -> AsyncIterator[AuditTrail]:
    trail = AuditTrail(
        log.append, instance="ratelimit-test", clock=SystemClock(), capacity=3, retry_s=0.05
    )
    trail.start()
    yield trail
    await trail.close(timeout_s=0.05)


def enter(trail: AuditTrail, detail: str = "gone") -> None:
    trail.degraded(entered=True, attributes={"detail": detail})


async def test_records_are_numbered_from_one_without_a_hole(log: Log, trail: AuditTrail) -> None:
    enter(trail)
    trail.degraded(entered=False, attributes={})
    await log.wait_for(2)
    first, second = log.records
    assert (first.type, second.type) == (
        record_pb2.EVENT_TYPE_DEGRADED_ENTERED,
        record_pb2.EVENT_TYPE_DEGRADED_LEFT,
    )
    assert [first.id.sequence, second.id.sequence] == [1, 2]
    assert first.id.instance == "ratelimit-test"
    assert first.id.epoch == second.id.epoch > 0
    assert dict(first.attributes) == {"detail": "gone"}


async def test_records_wait_for_an_audit_service_that_is_away(log: Log, trail: AuditTrail) -> None:
    log.up.clear()
    enter(trail)
    await log.until_tried(2)
    log.up.set()
    await log.wait_for(1)
    assert [record.id.sequence for record in log.records] == [1]


async def test_a_full_queue_drops_the_oldest_and_says_how_many(log: Log, trail: AuditTrail) -> None:
    log.up.clear()
    enter(trail, "0")
    await log.until_tried(1)
    for number in range(1, 6):
        enter(trail, str(number))
    log.up.set()
    await log.wait_for(3)
    assert [record.attributes["detail"] for record in log.records] == ["0", "4", "5"]
    assert [record.id.sequence for record in log.records] == [1, 2, 3]
    assert log.records[1].attributes["dropped_before"] == "3"


async def test_what_waits_leaves_before_the_end(log: Log) -> None:
    trail = AuditTrail(log.append, instance="ratelimit-test", clock=SystemClock())
    trail.start()
    enter(trail)
    await trail.close()
    assert len(log.records) == 1


async def test_the_end_does_not_wait_for_a_log_that_is_away(log: Log) -> None:
    log.up.clear()
    trail = AuditTrail(log.append, instance="ratelimit-test", clock=SystemClock())
    trail.start()
    enter(trail)
    async with asyncio.timeout(1):
        await trail.close(timeout_s=0.01)


async def test_without_an_audit_service_nothing_is_kept() -> None:
    trail = AuditTrail(None, instance="ratelimit-test", clock=SystemClock())
    trail.start()
    for _ in range(1000):
        enter(trail)
    await trail.close()


class Board:
    """Health, metric and trail that remember."""

    def __init__(self) -> None:
        self.state: tuple[str, bool, str] | None = None
        self.up: bool | None = None
        self.events: list[bool] = []

    def set(self, name: str, serving: bool, detail: str = "") -> None:
        self.state = (name, serving, detail)

    def store_fit(self, *, fit: bool) -> None:
        self.fit = fit

    def store_up(self, *, up: bool) -> None:
        self.up = up

    def degraded(self, *, entered: bool, attributes: object) -> None:
        self.events.append(entered)


def test_only_a_change_of_state_is_recorded() -> None:
    board = Board()
    degradation = Degradation("local", health=board, gauge=board, trail=board)
    degradation.store_changed(True, "here")
    assert (board.events, board.up, board.state) == ([], True, ("store", True, ""))
    for _ in range(3):
        degradation.store_changed(False, "gone")
    assert (board.events, board.up) == ([True], False)
    assert board.state == ("store", False, "gone; limits: local")
    degradation.store_changed(True, "here")
    assert board.events == [True, False]


def test_a_store_that_was_never_there_is_recorded_too() -> None:
    board = Board()
    degradation = Degradation("deny", health=board, gauge=board, trail=board)
    degradation.store_changed(False, "gone")
    assert board.events == [True]
