"""Anything may die: a process killed at any system call of the write path."""

from functools import partial
from pathlib import Path

import pytest

from tests.faults.aftermath import check, heard
from tests.faults.processes import Point, traced
from tests.faults.scenarios import Scenario

Case = tuple[Scenario, Point, str]
KILLED = -9
ATTEMPTS = 4
"""How many checkpoints a run makes depends on the moment, and so do the calls for their tiles."""


@pytest.mark.killed
@pytest.mark.scenarios("grow", "recover", "cross")
def test_a_kill_at_any_call_loses_nothing_acknowledged_and_repeats_nothing(case: Case) -> None:
    scenario, point, _ = case
    for _ in range(ATTEMPTS):
        with scenario.directory() as state:
            status, lines, errors = traced(
                partial(scenario.run, state),
                [
                    *("-P", str(state / point.path), "-e", f"trace={point.call}"),
                    *("-e", f"inject={point.call}:signal=SIGKILL:when={point.nth}"),
                ],
                state.parent / "trace",
            )
            check(state, scenario.batches, heard(lines))
        if status == KILLED:
            return
        assert status == 0, errors
    pytest.fail(f"{point} was not reached in {ATTEMPTS} runs")


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
