"""Anything may die: a process killed at any system call of the write path."""

from functools import partial
from pathlib import Path

import pytest

from tests.faults.aftermath import check, heard
from tests.faults.processes import Point, traced
from tests.faults.scenarios import Scenario

Case = tuple[Scenario, Point, str]
KILLED = -9


@pytest.mark.killed
@pytest.mark.scenarios("grow", "recover", "cross")
def test_a_kill_at_any_call_loses_nothing_acknowledged_and_repeats_nothing(
    state: Path, case: Case
) -> None:
    scenario, point, _ = case
    status, lines, errors = traced(
        partial(scenario.run, state),
        [
            *("-P", str(state / point.path), "-e", f"trace={point.call}"),
            *("-e", f"inject={point.call}:signal=SIGKILL:when={point.nth}"),
        ],
        state.parent / "trace",
    )
    assert status == KILLED, errors
    check(state, scenario.batches, heard(lines))


@pytest.mark.scenarios("grow", "recover")
def test_a_call_that_fails_is_survived_without_a_restart(state: Path, case: Case) -> None:
    scenario, point, error = case
    status, lines, errors = traced(
        partial(scenario.run, state),
        [
            *("-P", str(state / point.path), "-e", f"trace={point.call}"),
            *("-e", f"inject={point.call}:error={error}:when={point.nth}"),
        ],
        state.parent / "trace",
    )
    # A start may be refused, with a sentence; the workload then starts again.
    assert status == 0, errors
    said = heard(lines)
    assert said[-1].done
    check(state, scenario.batches, said)
