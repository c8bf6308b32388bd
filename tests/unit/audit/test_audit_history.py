"""Checkpoints that were published are remembered for ever, in a file that stays small."""

from pathlib import Path

import msgspec

from services.audit.history import History, read_history, thinned
from tests.fakes.biglog import checkpoint_of, log_of

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0
NOW = 1_800_000_000.0


def line(time: float) -> bytes:
    return msgspec.json.encode({"time": time, "checkpoint": ""}) + b"\n"


def ages(lines: list[bytes]) -> list[float]:
    return [NOW - msgspec.json.decode(one)["time"] for one in lines]


def test_older_checkpoints_are_thinned_out_and_the_first_and_the_last_stay() -> None:
    lines = [line(NOW - 60 * DAY + minute * MINUTE) for minute in range(60 * 1_440)]
    kept = thinned(lines, NOW)
    assert (kept[0], kept[-1]) == (lines[0], lines[-1])
    assert sum(age <= DAY for age in ages(kept)) == 1_440
    assert sum(DAY < age < 29 * DAY for age in ages(kept)) in {28 * 24 - 1, 28 * 24}
    assert len(kept) < 1_440 + 30 * 24 + 40
    assert max(a - b for a, b in zip(ages(kept), ages(kept)[1:], strict=False)) <= DAY


def test_thinning_again_changes_nothing_and_later_keeps_a_part() -> None:
    lines = [line(NOW - 90 * DAY + minute * 10 * MINUTE) for minute in range(90 * 144)]
    kept = thinned(lines, NOW)
    assert thinned(kept, NOW) == kept
    assert set(thinned(kept, NOW + 5_000 * DAY)) < set(kept)
    assert len(thinned(kept, NOW + 5_000 * DAY)) <= 5


def test_what_cannot_be_read_stays_for_the_verification_to_name() -> None:
    lines = [line(NOW - 9 * DAY), b"damage\n", line(NOW - 9 * DAY + 1), line(NOW)]
    assert thinned(lines, NOW) == [lines[0], b"damage\n", lines[3]]


def test_a_clock_that_jumped_ahead_loses_neither_the_first_nor_the_last() -> None:
    lines = [line(NOW + minute * MINUTE) for minute in range(100)]
    kept = thinned(lines, NOW + 10_000 * DAY)
    assert (kept[0], kept[-1]) == (lines[0], lines[-1])


def test_the_file_beside_a_log_stays_small(tmp_path: Path) -> None:
    signed = checkpoint_of(log_of(tmp_path, 10))
    path = tmp_path / "checkpoints.jsonl"
    encoded = [
        msgspec.json.encode({"time": NOW + at * MINUTE, "checkpoint": str(signed.note)}) + b"\n"
        for at in range(3 * 1_440)
    ]
    path.write_bytes(b"".join(encoded))
    History(path).take(signed, NOW + 4 * DAY)
    lines = path.read_bytes().splitlines(keepends=True)
    assert 3 * 24 <= len(lines) <= 3 * 24 + 2
    assert lines[0] == encoded[0]
    assert len(read_history(path)) == 1
    assert not path.with_suffix(".new").exists()
