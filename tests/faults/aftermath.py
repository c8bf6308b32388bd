"""What must hold after a fault: asked of a new process over the same files."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest

from services.audit.index import Filter
from services.audit.record import summarise
from services.audit.verification.offline import OfflineLog
from services.cli.__main__ import main as weaver
from tests.fakes.auditlog import EPOCH
from tests.faults.processes import Fork
from tests.faults.workload import Batch, Client, Said, run


def heard(lines: Iterable[bytes]) -> list[Said]:
    """Return what a client said; a kill may have left the last line unsaid, never half said."""
    return [msgspec.json.decode(line, type=Said) for line in lines]


def acknowledged(said: Iterable[Said]) -> dict[int, int]:
    """Return the index of each record that was acknowledged; one record has one index."""
    places: dict[int, int] = {}
    for line in said:
        for sequence, index in zip(line.sequences, line.indexes, strict=True):
            assert places.setdefault(sequence, index) == index, f"record {sequence} moved"
    return places


def check(
    state: Path, batches: Sequence[Batch], said: Sequence[Said], *, as_left: bool = True
) -> None:
    """Start again and hold the log to what was said.

    Whatever was acknowledged is there, at its index; a client that repeats everything gets the
    same indexes; nothing is there twice; `weaver audit verify` finds nothing.

    Args:
        state: where the log is.
        batches: what the client appended, or tried to.
        said: what it was told.
        as_left: whether to verify the log before it is started again, too.

    Raises:
        AssertionError: with the words of the process that looked.
    """
    before = acknowledged(said)
    status, lines, errors = Fork(lambda pipe: _look(state, batches, before, pipe, as_left)).wait()
    assert status == 0, errors
    assert lines == [b"good"]


def _look(
    state: Path, batches: Sequence[Batch], before: dict[int, int], pipe: int, as_left: bool
) -> None:
    after: list[Said] = []

    async def repeat(client: Client) -> None:
        for batch in batches:
            await client.append(batch)

    if as_left:
        verify_log(state)
    run(state, repeat, after.append)
    refused = [line.refused for line in after if line.refused]
    assert not refused, refused
    places = acknowledged(after)
    moved = {i: (at, places.get(i)) for i, at in before.items() if places.get(i) != at}
    assert not moved, f"acknowledged, then elsewhere: {moved}"
    verify_log(state)
    entries = list(OfflineLog(state / "audit" / "log").find(Filter(), ascending=True))
    ids = {index: summarise(entry).id for index, entry in entries}
    assert len(set(map(str, ids.values()))) == len(ids), "a record is there twice"
    ours = {i.sequence: at for at, i in ids.items() if i.instance == "gateway-test"}
    assert ours == {**ours, **places}
    assert sorted(ours) == list(range(1, len(ours) + 1))
    assert {i.epoch for i in ids.values() if i.instance == "gateway-test"} <= {EPOCH}
    os.write(pipe, b"good\n")


def verify_log(state: Path) -> dict[str, Any]:
    """Run `weaver audit verify` and return its report; a log without a checkpoint has none.

    It is an auditor who comes again: what was accepted before is what the log is held to.

    Raises:
        AssertionError: it found something.
    """
    log = state / "audit" / "log"
    if not (log / "checkpoint").exists():
        return {}
    output = io.StringIO()
    command = ["weaver", "audit", "verify", str(log), "--json"]
    with (
        contextlib.redirect_stdout(output),
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, {"WEAVER_STATE_DIR": str(state.parent / "auditor")}),
        pytest.raises(SystemExit) as end,
    ):
        weaver()
    report: dict[str, Any] = json.loads(output.getvalue())
    assert report["good"], report["findings"]
    assert end.value.code == 0
    return report
