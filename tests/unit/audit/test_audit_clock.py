"""A clock that jumps, forward or back, by days or years, does not break the log."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from services.audit.history import History, read_history
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.verification.offline import published_before
from services.audit.verification.verifier import verify
from services.audit.wiring import build
from tests.fakes.auditlog import RunningLog, record, settings_in
from tests.unit.audit.test_audit_stores import signed

DAY = 86_400.0
YEAR = 365 * DAY
NOW = 1_800_000_000.0


class Turned:
    """A clock whose wall time is what the test says, and whose monotonic time is real."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()


@asynccontextmanager
async def running_at(state: Path, clock: Turned) -> AsyncIterator[RunningLog]:
    settings = settings_in(state)
    async with AsyncExitStack() as stack:
        component = await build(settings, stack, clock=clock)
        running = RunningLog(component, None, settings.log_path)
        yield running._replace(stub=running.stub_of("gateway"))


def assert_good(log: Path, records: int) -> None:
    report = verify(log, load_keys(Layout(log).keys), history=published_before(log))
    assert report.findings == []
    assert report.size == records


@pytest.mark.parametrize("jump", [-30 * YEAR, -DAY, -1.0, 0.0, DAY, 30 * YEAR])
async def test_a_clock_that_jumps_between_and_during_runs_breaks_nothing(
    tmp_path: Path, jump: float
) -> None:
    clock = Turned()
    places = []
    async with running_at(tmp_path, clock) as running:
        places += await running.append([record(1)])
        clock.now += jump
        places += await running.append([record(1, epoch=int(clock.now * 1000))])
        checkpoint = running.log / "checkpoint"
        assert running.component.health.serving
    assert checkpoint.exists()
    async with running_at(tmp_path, clock) as running:
        places += await running.append([record(1, epoch=int(clock.now * 1000) + 1)])
        assert await running.append([record(1)]) == places[:1]
        clock.now -= jump
        places += await running.append([record(2)])
    assert places == [3, 4, 7, 8]
    assert_good(running.log, 10)


async def test_starts_at_one_instant_have_records_of_their_own(tmp_path: Path) -> None:
    for _ in range(3):
        async with running_at(tmp_path, Turned(NOW)) as running:
            pass
    async with running_at(tmp_path, Turned(NOW - YEAR)) as running:
        pass
    assert_good(running.log, 2 + 4 * 2)


def test_history_goes_on_after_the_clock_went_back(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for size, at in ((1, NOW), (2, NOW - YEAR), (3, NOW - YEAR + 30), (4, NOW - YEAR + 61)):
        history.take(signed(size), at)
    assert [c.checkpoint.size for c in read_history(tmp_path / "history")] == [1, 2, 4]
