"""Faults are injected by `strace`; the points to inject at come from a reference run.

`FAULTS=all` takes every system call with every fault. Without it each call is hit once on each kind
of file, the first time or the last, with the faults taking turns.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest

from tests.fakes.auditlog import quick_keys
from tests.faults.processes import CALLS, Point, traced
from tests.faults.processes import points as points_of
from tests.faults.scenarios import SCENARIOS, Scenario

EVERYTHING = os.environ.get("FAULTS") == "all"
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS")
NOT_RUN: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks of this folder."""
    config.addinivalue_line("markers", "scenarios(names): run at each point of these scenarios")
    config.addinivalue_line("markers", "killed: the fault is SIGKILL, not an error")


def pytest_sessionstart() -> None:
    """Refuse to begin without what hits the calls: nothing is skipped silently."""
    if shutil.which("strace") is None:
        pytest.exit("tests/faults needs strace: apt-get install strace", returncode=3)
    quick_keys()  # Made once; every process that is forked has them.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that ask for a `case` each point of each scenario that they are marked with."""
    if "case" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("scenarios")
    assert marker is not None
    kill = metafunc.definition.get_closest_marker("killed") is not None
    cases = []
    for name in marker.args:
        for number, point in enumerate(chosen(reference(name), SCENARIOS[name].within, kill)):
            faults = ("SIGKILL",) if kill else ERRORS
            if not EVERYTHING:
                faults = (faults[number % len(faults)],)
            cases += [(SCENARIOS[name], point, fault) for fault in faults]
    metafunc.parametrize("case", cases, ids=[f"{s.name} {p} {f}" for s, p, f in cases])


def chosen(points: list[Point], within: str, kill: bool) -> list[Point]:
    """Return the points to hit: all, or the first or last of each call on each kind of file.

    Where a kill hits the first, an error hits the last, and the other way round.
    """
    if EVERYTHING:
        return points
    kinds: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        if re.search(within, point.path) is None:
            continue
        kind = re.sub(r"entries|\d+", "N", re.sub(r"\w+\.db", "database", point.path))
        kinds.setdefault((point.call, kind), []).append(point)
    return [group[-((number + kill) % 2)] for number, group in enumerate(kinds.values())]


@cache
def reference(name: str) -> list[Point]:
    """Return the calls of a scenario that runs without faults."""
    scenario = SCENARIOS[name]
    with scenario.directory() as state:
        trace = state.parent / "trace"
        status, _, errors = traced(
            partial(scenario.run, state), ["-y", "-e", f"trace={CALLS}"], trace
        )
        if status:
            pytest.exit(f"{name} does not even run without faults: {errors}", returncode=3)
        return points_of(trace.read_text(), state)


@pytest.fixture
def state(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the directory of a scenario's log, as the scenario finds it."""
    scenario: Scenario = request.node.callspec.params["case"][0]
    with scenario.directory() as directory:
        yield directory


@pytest.fixture
def not_run() -> Callable[[str], None]:
    """Return what says, at the end of the run, what this machine does not allow."""
    return NOT_RUN.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was not run here."""
    for reason in NOT_RUN:
        terminalreporter.write_line(f"NOT RUN HERE: {reason}", yellow=True)
