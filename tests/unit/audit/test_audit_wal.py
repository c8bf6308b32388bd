"""The write-ahead log: what was acknowledged comes back, whatever happened to the end."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.audit.wal import DamagedWAL, Item, WriteAheadLog, decode_frame, encode_frame

ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def items(first: int, count: int) -> list[Item]:
    return [
        (f"entry {i}".encode() * (i % 5 + 1), b"k" * 32 if i % 2 else None)
        for i in range(first, first + count)
    ]


def replayed(directory: Path, start: int = 0) -> list[Item]:
    """Return what a new process finds."""
    found: list[Item] = []
    for frame in WriteAheadLog(directory).replay(start):
        found.extend(frame.items[max(0, start - frame.first_index) :])
    return found


def opened(directory: Path, *, segment_size: int = 1 << 20) -> WriteAheadLog:
    wal = WriteAheadLog(directory, segment_size)
    for _ in wal.replay(0):
        pass
    wal.begin()
    return wal


def failing(*_: object) -> None:
    raise OSError(28, "full")


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.wal"))


def test_what_was_committed_comes_back_in_order(tmp_path: Path) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 3), items(3, 1)])
    wal.commit([items(4, 10)])
    wal.close()
    assert wal.durable == 14
    assert replayed(tmp_path) == items(0, 14)
    assert replayed(tmp_path, 5) == items(5, 9)


@ANY
@given(
    batches=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=6),
    cut=st.integers(0, 10_000),
    garbage=st.binary(max_size=60),
)
def test_a_torn_end_loses_whole_batches_of_the_last_group_at_most(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], cut: int, garbage: bytes
) -> None:
    directory = tmp_path_factory.mktemp("wal")
    wal = opened(directory)
    index, before, ends = 0, 0, [0]
    path = segments(directory)[0]
    start = path.stat().st_size
    for group in batches:
        before, start = index, path.stat().st_size
        ends = [index]
        frames = []
        for count in group:
            frames.append(items(index, count))
            index += count
            ends.append(index)
        wal.commit(frames)
    wal.close()
    data = path.read_bytes()
    path.write_bytes(data[: min(len(data), start + cut)] + garbage)
    found = replayed(directory)
    assert found == items(0, len(found))
    assert before <= len(found) <= index
    assert len(found) in ends
    again = opened(directory)
    again.commit([items(len(found), 2)])
    again.close()
    assert replayed(directory) == items(0, len(found) + 2)


@ANY
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_flipped_bit_is_never_believed(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    directory = tmp_path_factory.mktemp("wal")
    wal = opened(directory)
    for first in range(0, 12, 3):
        wal.commit([items(first, 3)])
    wal.close()
    path = segments(directory)[0]
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = replayed(directory)
    except DamagedWAL:
        return
    # Only the last group may be taken for a write that broke off.
    assert found == items(0, 9)


def test_damage_to_acknowledged_records_is_refused_with_a_sentence(tmp_path: Path) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    wal.commit([items(2, 2)])
    wal.commit([items(4, 2)])
    wal.close()
    path = segments(tmp_path)[0]
    data = path.read_bytes()
    place = data.index(b"entry 2")
    path.write_bytes(data[:place] + b"X" + data[place + 1 :])
    with pytest.raises(DamagedWAL, match="damaged at record 2"):
        replayed(tmp_path)
    # The tree has these records already: then nothing is lost.
    assert replayed(tmp_path, 4) == items(4, 2)


def test_a_failed_write_never_counts_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    good = os.fdatasync

    def failing(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(OSError, match="Input"):
        wal.commit([[(b"refused", None)], [(b"refused too", None)]])
    assert wal.durable == 2
    monkeypatch.setattr(os, "ftruncate", lambda *_: failing(0))
    wal.recover()  # The end cannot even be cut off.
    monkeypatch.setattr(os, "fdatasync", good)
    wal.commit([items(2, 3)])
    wal.close()
    assert b"refused" in segments(tmp_path)[0].read_bytes()
    assert replayed(tmp_path) == items(0, 5)


def test_the_end_of_a_failed_write_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _fd: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            wal.commit([[(b"refused", None)]])
    wal.recover()
    wal.close()
    assert b"refused" not in segments(tmp_path)[0].read_bytes()
    assert replayed(tmp_path) == items(0, 2)


def test_a_segment_that_could_not_begin_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _fd: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            wal.recover()
        with pytest.raises(OSError, match=r"."):
            wal.commit([items(1, 1)])
    assert replayed(tmp_path) == items(0, 1)
    wal.recover()
    wal.commit([items(1, 1)])
    wal.close()
    assert replayed(tmp_path) == items(0, 2)


def test_segments_roll_and_go_when_the_tree_has_their_records(tmp_path: Path) -> None:
    wal = opened(tmp_path, segment_size=200)
    for first in range(0, 40, 2):
        wal.commit([items(first, 2)])
    assert len(segments(tmp_path)) > 3
    assert replayed(tmp_path) == items(0, 40)
    wal.trim(17)
    assert wal.oldest <= 17
    assert replayed(tmp_path, 17) == items(17, 23)
    wal.trim(40, roll=True)
    assert len(segments(tmp_path)) == 1
    assert wal.oldest == 40
    wal.trim(40, roll=True)
    wal.commit([items(40, 1)])
    wal.close()
    assert replayed(tmp_path, 40) == items(40, 1)


def test_a_gap_between_tree_and_segments_is_refused(tmp_path: Path) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 5)])
    wal.trim(5, roll=True)
    wal.commit([items(5, 1)])
    wal.close()
    with pytest.raises(DamagedWAL, match="is missing"):
        replayed(tmp_path, 3)


def test_a_missing_segment_is_refused(tmp_path: Path) -> None:
    wal = opened(tmp_path, segment_size=100)
    for first in range(8):
        wal.commit([items(first, 1)])
    wal.close()
    segments(tmp_path)[1].unlink()
    with pytest.raises(DamagedWAL, match="a part of the write-ahead log is missing"):
        replayed(tmp_path)


def test_a_removed_segment_that_came_back_after_a_power_cut_does_no_harm(tmp_path: Path) -> None:
    wal = opened(tmp_path, segment_size=100)
    for first in range(8):
        wal.commit([items(first, 1)])
    back = segments(tmp_path)[0]
    data = back.read_bytes()
    wal.trim(6)
    back.write_bytes(data)
    assert replayed(tmp_path, 6) == items(6, 2)
    again = WriteAheadLog(tmp_path, 100)
    assert list(again.replay(6))
    again.begin()
    again.trim(6)
    assert not back.exists()
    again.close()


def test_what_follows_a_segment_that_failed_to_begin_is_not_superseded_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 1)])
    with monkeypatch.context() as patch:
        # The header of the new segment is on disk, but its name may not be.
        patch.setattr("services.audit.wal.sync_directory", failing)
        with pytest.raises(OSError, match="full"):
            wal.trim(1, roll=True)
    assert len(segments(tmp_path)) == 2
    wal.commit([items(1, 3)])
    wal.close()
    assert replayed(tmp_path) == items(0, 4)


def test_a_frame_that_a_peer_smuggled_into_a_torn_frame_is_not_taken_for_one(
    tmp_path: Path,
) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 1)])
    # It would say that record 9 was durable, which a start has to refuse.
    wal.commit([[(b"{}", encode_frame(9, 9, [(b"inner", None)], 0)), (b"{}", None)]])
    wal.close()
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert replayed(tmp_path) == items(0, 1)


def test_a_segment_cut_short_before_another_is_refused(tmp_path: Path) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 4)])
    wal.begin()
    wal.commit([items(4, 1)])
    wal.close()
    first = segments(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(DamagedWAL, match="had been acknowledged"):
        replayed(tmp_path)
    assert replayed(tmp_path, 4) == items(4, 1)


@pytest.mark.parametrize("length", [0, 5, 28])
def test_a_segment_whose_start_broke_off_is_removed(tmp_path: Path, length: int) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    wal.close()
    (tmp_path / "000000000002.wal").write_bytes(bytes(length))
    assert replayed(tmp_path) == items(0, 2)
    assert len(segments(tmp_path)) == 1


def test_a_segment_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    wal.close()
    (path,) = segments(tmp_path)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(DamagedWAL, match="header"):
        replayed(tmp_path)


@pytest.mark.parametrize("magic", [b"WEAVWAL1", b"WEAVWAL9"])
def test_records_of_another_version_are_left_alone_with_advice(
    tmp_path: Path, magic: bytes
) -> None:
    wal = opened(tmp_path)
    wal.commit([items(0, 2)])
    wal.close()
    (path,) = segments(tmp_path)
    path.write_bytes(magic + path.read_bytes()[8:])
    before = path.read_bytes()
    with pytest.raises(DamagedWAL, match=r"another version.*Start that version.*SIGTERM"):
        replayed(tmp_path)
    assert path.read_bytes() == before


def test_a_frame_within_an_entry_is_not_taken_for_one(tmp_path: Path) -> None:
    inner = encode_frame(7, 7, [(b"inner", None)], 0)
    wal = opened(tmp_path)
    wal.commit([[(inner, inner)]])
    wal.close()
    assert replayed(tmp_path) == [(inner, inner)]


@given(st.binary(max_size=200), st.integers(0, 10))
def test_arbitrary_bytes_are_no_frame(data: bytes, offset: int) -> None:
    assert decode_frame(data, offset, 0) is None


def test_an_empty_directory_replays_to_nothing(tmp_path: Path) -> None:
    assert replayed(tmp_path) == []
    assert WriteAheadLog(tmp_path).oldest == 0
