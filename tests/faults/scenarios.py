"""What a log is doing when the fault hits: growing from nothing, recovering, making level 2."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from services.audit.integration import Integrator
from tests.fakes.auditlog import record
from tests.faults import workload
from tests.faults.processes import Fork
from tests.faults.workload import BATCHES, Batch, Client, Script

FIRST = [list(range(first, first + 60)) for first in range(1, 541, 60)]
LATER = [list(range(541, 561)), [561]]
LEVEL_2 = 256 * 256
OWN_RECORDS = 5
"""What the service wrote into the log before: two keys, a start, an end, a start."""
MANY = 1_000
_ROOM = 1 << 30


@dataclass(frozen=True)
class Scenario:
    """A piece of a log's life that faults are injected into.

    Attributes:
        name: in the names of the cases.
        script: what the client does.
        batches: all that it appends, in this piece and before.
        template: makes the directory that it begins with; None for an empty one.
        starts: how often a start that is refused is tried.
        within: what the paths must match that faults hit, where not all are hit.
    """

    name: str
    script: Script
    batches: Sequence[Batch]
    template: str = ""
    starts: int = 3
    within: str = ""

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """Yield a fresh state directory, always at the same length of path."""
        with tempfile.TemporaryDirectory(prefix="weaver-faults-", dir=_scratch()) as scratch:
            state = Path(scratch) / "state"
            if self.template:
                shutil.copytree(_template(self.template), state)
            else:
                state.mkdir()
            yield state

    def run(self, state: Path, pipe: int) -> None:
        """Run it in this process."""
        workload.run(state, self.script, workload.writer(pipe), starts=self.starts)


@cache
def _scratch() -> str | None:
    """Return a place in memory where there is room: what a kill leaves is the same, only sooner."""
    memory = Path("/dev/shm")  # noqa: S108 - what is made there has a name of its own
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM
    return str(memory) if roomy and os.access(memory, os.W_OK) else None


async def _recover(client: Client) -> None:
    """Start over what a killed process left: many records that the tree does not have."""
    for batch in LATER:
        await client.append_and_wait(batch)


async def _cross(client: Client) -> None:
    """Fill the tile of tiles: record 65,536 makes level 2."""
    last = LEVEL_2 - OWN_RECORDS
    await client.append_and_wait([last - 1])
    await client.append_and_wait([last])
    await client.append_and_wait([last + 1])


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("grow", workload.everything, BATCHES),
        Scenario("recover", _recover, [*FIRST, *LATER], template="killed"),
        Scenario(
            "cross",
            _cross,
            [[LEVEL_2 - OWN_RECORDS - 1], [LEVEL_2 - OWN_RECORDS], [LEVEL_2 - OWN_RECORDS + 1]],
            template="long",
            within="/tile/|scratch|checkpoint$|/wal/",
        ),
    )
}


@cache
def _template(name: str) -> Path:
    """Return a directory that scenarios copy; made once a run."""
    scratch = tempfile.TemporaryDirectory(prefix="weaver-faults-", dir=_scratch())
    _KEPT.append(scratch)
    state = Path(scratch.name) / "state"
    state.mkdir()
    {"killed": _make_killed, "long": _make_long}[name](state)
    return state


_KEPT: list["tempfile.TemporaryDirectory[str]"] = []


def _make_killed(state: Path) -> None:
    """Kill a process that has acknowledged much more than the tree has, over several segments."""

    async def append_and_die(client: Client) -> None:
        await client.append_and_wait(FIRST[0])
        Integrator.integrate = lambda *_: time.sleep(60)  # type: ignore[method-assign,assignment]
        for batch in FIRST[1:]:
            await client.append(batch)
        os.kill(os.getpid(), signal.SIGKILL)

    status, _, errors = Fork(
        lambda pipe: workload.run(state, append_and_die, workload.writer(pipe))
    ).wait()
    assert status == -signal.SIGKILL, errors


def _make_long(state: Path) -> None:
    """Grow a log to two records before level 2."""
    last = LEVEL_2 - OWN_RECORDS - 2

    async def append(client: Client) -> None:
        for first in range(1, last + 1, MANY):
            await client.running.append(
                [record(i) for i in range(first, min(first + MANY, last + 1))]
            )

    status, _, errors = Fork(
        lambda pipe: workload.run(state, append, workload.writer(pipe), checkpoint_interval_ms=250)
    ).wait()
    assert status == 0, errors
