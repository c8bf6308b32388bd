"""Durable means durable: what was acknowledged is there when the power goes at any moment."""

import hashlib
from functools import partial
from pathlib import Path

import pytest

from tests.faults.aftermath import check, heard
from tests.faults.conftest import EVERYTHING
from tests.faults.powercut import OPTIONS, Disk, Found
from tests.faults.processes import traced
from tests.faults.scenarios import SCENARIOS

EVERY = 1 if EVERYTHING else 24


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", list(Found), ids=lambda how: how.name.lower())
def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(tmp_path: Path, how: Found) -> None:
    scenario = SCENARIOS["grow"]
    with scenario.directory() as state:
        trace = state.parent / "trace"
        status, _, errors = traced(partial(scenario.run, state), [*OPTIONS], trace)
        assert status == 0, errors
        disk = Disk(state)
        seen: set[str] = set()
        for turn, (number, moment) in enumerate(disk.replay(trace.read_text())):
            if turn % EVERY != list(Found).index(how) % EVERY:
                continue
            found = tmp_path / str(number) / moment.split()[0]
            found.parent.mkdir(exist_ok=True)
            disk.write_out(found, how)
            if (digest := fingerprint(found, disk.said)) in seen:
                continue
            seen.add(digest)
            try:
                # The names of tiles behind the checkpoint may be on the disk in any order.
                check(found, scenario.batches, heard(disk.said), as_left=False)
            except AssertionError as error:
                pytest.fail(f"call {number}, {moment}: {error}")
        assert len(seen) > 10


def fingerprint(found: Path, said: list[bytes]) -> str:
    """Return what tells one disk, and what was said by then, from another."""
    digest = hashlib.sha256(str(len(said)).encode())
    for path in sorted(found.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{path.relative_to(found)} {len(content)} ".encode() + content)
    return digest.hexdigest()
