"""The index heals: whatever happens to it, listings come back right and appends never wait."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.audit.following import FollowingIndex
from services.audit.index import Filter, Index
from services.audit.matching import matches
from services.audit.record import Principal, RecordId, Summary
from services.audit.tiles import TileDirectory
from services.common.errors import Unavailable
from tests.fakes.biglog import entries, entry, log_of, write_log

PATIENCE_S = 20.0


@pytest.fixture
def tiles(tmp_path: Path) -> TileDirectory:
    batch = [entry(i + 1, request_id=f"r{i}", event_time=f"t{i:06d}") for i in range(1_000)]
    return TileDirectory(write_log(tmp_path, [batch]), tmp_path / "scratch")


@pytest.fixture
def follow(tmp_path: Path, tiles: TileDirectory) -> Iterator[Callable[..., FollowingIndex]]:
    opened: list[FollowingIndex] = []

    def start(size: int = 1_000) -> FollowingIndex:
        opened.append(FollowingIndex(tmp_path / "index.db", tiles, size))
        return opened[-1]

    yield start
    for index in opened:
        index.close()


def find(index: FollowingIndex, request: str) -> list[int]:
    return index.find(
        Filter(request_id=request), limit=9, after=None, ascending=False, patience_s=PATIENCE_S
    )


def test_an_index_that_is_missing_or_behind_is_made_from_the_log(
    follow: Callable[..., FollowingIndex],
) -> None:
    index = follow(300)
    assert find(index, "r299") == [299]
    index.close()
    index = follow(1_000)
    assert find(index, "r999") == [999]
    assert find(index, "r0") == [0]


@pytest.mark.parametrize("damage", ["garbage", "cut", "another", "longer", "emptied", "changed"])
def test_an_index_that_is_damaged_or_anothers_is_made_anew(
    follow: Callable[..., FollowingIndex], tmp_path: Path, damage: str
) -> None:
    assert find(follow(), "r7") == [7]
    path = tmp_path / "index.db"
    follow().close()
    if damage == "garbage":
        path.write_bytes(b"not a database" * 1_000)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:5_000])
    elif damage == "emptied":
        with sqlite3.connect(path) as database:
            database.execute("DELETE FROM records WHERE record < 500")
        database.close()
    elif damage == "changed":
        with sqlite3.connect(path) as database:
            database.execute("UPDATE records SET request_id = 'x'")
        database.close()
    else:
        path.unlink()
        other = Index(path)
        count = 1_000 if damage == "another" else 2_000
        other.add(0, [one.data for one in entries(0, count)])
        other.close()
    index = follow()
    assert find(index, "r7") == [7]
    assert find(index, "r999") == [999]
    assert index.whole


def test_appends_go_on_while_it_is_made_anew_and_are_in_it_then(
    follow: Callable[..., FollowingIndex], tiles: TileDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.following._GAP_S", 0.05)
    index = follow(500)
    assert not index.whole
    with pytest.raises(Unavailable, match="being made anew"):
        index.find(Filter(), limit=1, after=None, ascending=False)
    more = [entry(i + 1, request_id=f"r{i}", event_time=f"t{i:06d}") for i in range(500, 1_000)]
    started = time.monotonic()
    index.apply(500, more[:300])
    index.apply(800, more[300:])
    assert time.monotonic() - started < 1.0
    assert find(index, "r999") == [999]
    index.apply(1_000, [])
    assert index.whole
    assert tiles.entries(3, 1_000)


def test_a_database_that_fails_stops_no_append_and_is_made_anew(
    follow: Callable[..., FollowingIndex],
) -> None:
    index = follow()
    assert find(index, "r7") == [7]
    problems: list[str] = []
    index.tell(problems.append)
    index._index._database.close()
    index.apply(1_000, [])
    index.apply(1_000, [entry(1_001)])
    with pytest.raises(Unavailable):
        index.find(Filter(), limit=1, after=None, ascending=False)
    index._wanted = 1_000
    assert find(index, "r7") == [7]
    assert problems[0] == ""


def test_an_index_that_named_the_wrong_record_is_made_anew(
    follow: Callable[..., FollowingIndex],
) -> None:
    index = follow()
    assert find(index, "r7") == [7]
    with sqlite3.connect(index._index._path) as database:
        database.execute("UPDATE records SET request_id = 'r7' WHERE record = 8")
    database.close()
    assert find(index, "r7") == [8, 7]
    index.distrust()
    assert find(index, "r7") == [7]


def test_a_log_that_cannot_be_read_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.audit.following._RETRY_S", 0.02)
    log = log_of(tmp_path, 600)
    bundle = log / "tile" / "entries" / "001"
    bundle.rename(tmp_path / "away")
    index = FollowingIndex(tmp_path / "index.db", TileDirectory(log, tmp_path), 600)
    problems: list[str] = []
    index.tell(problems.append)
    end = time.monotonic() + PATIENCE_S
    while not any("cannot be made anew" in problem for problem in problems):
        assert time.monotonic() < end
        time.sleep(0.01)
    (tmp_path / "away").rename(bundle)
    assert index.find(Filter(), limit=1, after=None, ascending=False, patience_s=9.0) == [599]
    while problems[-1]:
        assert time.monotonic() < end
        time.sleep(0.01)
    index.close()


PLAIN = Principal(issuer="apikey", subject="ann", tenant="acme")
HIDDEN = Principal(issuer="apikey", subject="p-1", tenant="acme", pseudonym=True)


@pytest.mark.parametrize(
    ("wanted", "principal", "expected"),
    [
        (Filter(), None, True),
        (Filter(subject="ann"), PLAIN, True),
        (Filter(subject="bob"), PLAIN, False),
        (Filter(subject="ann"), None, False),
        (Filter(tenant="acme", issuer="apikey"), PLAIN, True),
        (Filter(tenant="other"), PLAIN, False),
        (Filter(issuer="other"), PLAIN, False),
        (Filter(subject="p-1"), HIDDEN, False),
        (Filter(pseudonyms=("p-1",)), HIDDEN, True),
        (Filter(pseudonyms=("ann",)), PLAIN, False),
        (Filter(request_id="r"), PLAIN, True),
        (Filter(request_id="s"), PLAIN, False),
        (Filter(types=("intent", "outcome")), PLAIN, True),
        (Filter(types=("outcome",)), PLAIN, False),
        (Filter(start_time="t5", end_time="t6"), PLAIN, True),
        (Filter(start_time="t6"), PLAIN, False),
        (Filter(end_time="t5"), PLAIN, False),
    ],
)
def test_a_filter_is_held_against_the_record_itself(
    wanted: Filter, principal: Principal | None, expected: bool
) -> None:
    record_id = RecordId(1, "gateway-1", 1)
    summary = Summary("t5", record_id, "intent", principal=principal, request_id="r")
    assert matches(wanted, summary) is expected
