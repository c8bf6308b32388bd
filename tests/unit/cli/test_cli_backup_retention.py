"""Retention: 7 daily, 4 weekly and 12 monthly, tried with years that pass in a moment."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.audit.archives.targets import DirectoryTarget
from services.cli.backup.age_keys import PublicKey, SecretKey, generate
from services.cli.backup.retention import Retention, kept
from services.cli.backup.shelf import MANIFEST, Shelf, ShelfError

RULE = Retention()
START = datetime(2026, 1, 1, 2, 0, tzinfo=UTC)
IDENTITY, RECIPIENT = generate()
FOR_US = [PublicKey(RECIPIENT)]


def names(times: dict[datetime, list[str]], reason: str) -> list[str]:
    return sorted(f"{time:%Y-%m-%d}" for time, why in times.items() if reason in why)


def test_a_year_of_daily_backups_leaves_what_the_guide_promises(tmp_path: Path) -> None:
    """One backup and one pruning a day, on a real shelf, for 400 days."""
    target = DirectoryTarget(tmp_path)
    shelf = Shelf(target)
    for day in range(400):
        now = START + timedelta(days=day)
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        target.write(f"redis/{stamp}/part-00000.age", b"x")
        target.write(f"redis/{stamp}/{MANIFEST}", b"{}")
        shelf.prune("redis", RULE, now, dry_run=False)
    staying = [datetime.fromisoformat(stamp) for stamp in shelf.stamps("redis")]
    times = kept(staying, RULE, now)
    assert f"{now:%Y-%m-%d}" == "2027-02-04"
    assert names(times, "daily") == [f"2027-{day}" for day in ("01-29", "01-30", "01-31")] + [
        f"2027-02-0{day}" for day in (1, 2, 3, 4)
    ]
    assert names(times, "weekly") == ["2027-01-17", "2027-01-24", "2027-01-31", "2027-02-04"]
    assert names(times, "monthly") == [
        "2026-03-31", "2026-04-30", "2026-05-31", "2026-06-30", "2026-07-31", "2026-08-31",
        "2026-09-30", "2026-10-31", "2026-11-30", "2026-12-31", "2027-01-31", "2027-02-04",
    ]  # fmt: skip
    assert len(staying) == len(times) == 7 + 2 + 10
    assert sorted(path.name for path in (tmp_path / "redis").iterdir()) == shelf.stamps("redis")


@pytest.mark.parametrize("seed", range(20))
def test_pruning_each_day_keeps_what_pruning_once_would(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - no secret
    times = [
        START + timedelta(days=day, hours=hour)
        for day in range(120)
        for hour in (0, 6, 12)
        if chance.random() < 0.6
    ]
    alive: set[datetime] = set()
    for time in times:
        alive = set(kept({*alive, time}, RULE, time))
    assert alive == set(kept(times, RULE, times[-1]))


def test_a_job_that_stood_still_loses_nothing_by_it() -> None:
    times = [START + timedelta(days=day) for day in range(7)]
    years_later = START + timedelta(days=2_000)
    assert set(kept(times, RULE, years_later)) == set(times)


def test_the_newest_stays_whatever_the_rule() -> None:
    times = [START, START + timedelta(days=1)]
    assert kept(times, Retention(0, 0, 0), times[-1]) == {times[-1]: ["newest"]}
    assert kept([], RULE, START) == {}


def test_a_backup_from_the_future_stays_and_counts_for_nothing() -> None:
    now = START + timedelta(days=1)
    ahead = now + timedelta(days=365)
    found = kept([START, now, ahead], Retention(1, 0, 0), now)
    assert found == {ahead: ["future"], now: ["newest", "daily"]}


def put(shelf: Shelf, content: bytes, now: datetime) -> str:
    backup = shelf.put("keys", [content], now=now, source="here", recipients=FOR_US, facts={})
    return backup.time


def test_a_backup_comes_back_and_lies_there_sealed(tmp_path: Path) -> None:
    shelf = Shelf(DirectoryTarget(tmp_path))
    stamp = put(shelf, b"the private key", START)
    backup = shelf.manifest("keys")
    assert b"".join(shelf.open(backup, [SecretKey(IDENTITY)])) == b"the private key"
    assert backup.time == stamp == "20260101T020000Z"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"private" not in path.read_bytes()
    with pytest.raises(ShelfError, match="wait a second"):
        put(shelf, b"another", START)


@pytest.mark.parametrize("harm", ["changed", "lost", "manifest", "swapped"])
def test_a_damaged_backup_is_named_and_not_handed_out(tmp_path: Path, harm: str) -> None:
    shelf = Shelf(DirectoryTarget(tmp_path))
    first = put(shelf, b"one", START)
    second = put(shelf, b"two", START + timedelta(days=1))
    backup = shelf.manifest("keys", second)
    part = tmp_path / "keys" / second / "part-00000.age"
    if harm == "changed":
        part.write_bytes(part.read_bytes()[:-1] + b"x")
    elif harm == "lost":
        part.unlink()
    elif harm == "swapped":
        part.write_bytes((tmp_path / "keys" / first / part.name).read_bytes())
    else:
        (part.parent / MANIFEST).write_text("{}")
        with pytest.raises(ShelfError, match=f"{second}.*damaged"):
            shelf.manifest("keys")
        return
    with pytest.raises(ShelfError, match="part-00000"):
        list(shelf.open(backup, [SecretKey(IDENTITY)]))


def test_what_a_run_that_broke_off_left_is_no_backup_and_goes_after_a_day(tmp_path: Path) -> None:
    target = DirectoryTarget(tmp_path)
    shelf = Shelf(target)
    put(shelf, b"whole", START)
    broken = START + timedelta(hours=1)
    target.write(f"keys/{broken:%Y%m%dT%H%M%SZ}/part-00000.age", b"half")
    assert len(shelf.stamps("keys")) == 1
    assert shelf.prune("keys", RULE, START + timedelta(hours=2), dry_run=False)[1] == []
    going = shelf.prune("keys", RULE, START + timedelta(days=2), dry_run=True)[1]
    assert going == ["20260101T030000Z"]
    shelf.prune("keys", RULE, START + timedelta(days=2), dry_run=False)
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["20260101T020000Z"]


def test_nothing_else_in_the_target_is_touched(tmp_path: Path) -> None:
    target = DirectoryTarget(tmp_path)
    for path in (
        "redis/notes.txt",
        "redis/20260101T020000Z.rdb",
        "redis/20269999T020000Z/x",
        "log/checkpoint",
    ):
        target.write(path, b"somebody's")
    Shelf(target).prune("redis", Retention(0, 0, 0), START + timedelta(days=900), dry_run=False)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4
