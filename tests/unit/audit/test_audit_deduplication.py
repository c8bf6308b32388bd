"""Idempotency: nothing is there twice, and nothing that a peer chooses makes a record vanish."""

from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit import deduplication as module
from services.audit import identities
from services.audit.deduplication import Deduplication, Snapshot
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.ports import Entry
from services.audit.record import RecordId
from services.audit.seen import Intervals
from services.audit.tiles import TileDirectory
from services.audit.verification.verifier import verify
from services.common.errors import AlreadyExists, PermissionDenied
from tests.fakes.auditlog import EPOCH, RunningLog, record, running_log
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import record_pb2


def leaf(record_id: RecordId, content: str = "") -> bytes:
    return sha256(f"{record_id}{content}".encode()).digest()


class Model:
    """A log that appends as the group commit does."""

    def __init__(self, window: int) -> None:
        self.ids = Deduplication(window)
        self.records: list[RecordId] = []

    def append(self, *sequences: int, epoch: int = 1, instance: str = "gateway-1") -> list[int]:
        """Append records and return their indexes."""
        places = []
        for sequence in sequences:
            record_id = RecordId(epoch, instance, sequence)
            index = self.ids.find(record_id, leaf(record_id))
            if index is None:
                index = len(self.records)
                self.ids.add(record_id, index, leaf(record_id))
                self.records.append(record_id)
            places.append(index)
        self.ids.settle()
        return places


def test_a_repeated_record_gets_its_first_index_within_the_window() -> None:
    model = Model(4)
    assert model.append(1, 2, 3, 4) == [0, 1, 2, 3]
    assert model.append(2, 5, 3) == [1, 4, 2]


def test_the_same_id_with_other_content_is_a_conflict() -> None:
    model = Model(4)
    model.append(1)
    with pytest.raises(AlreadyExists, match="other content"):
        model.ids.find(RecordId(1, "gateway-1", 1), leaf(RecordId(1, "gateway-1", 1), "x"))


def test_a_record_from_before_the_window_is_refused_and_never_taken_twice() -> None:
    model = Model(4)
    model.append(*range(1, 8))
    assert model.append(4) == [3]
    for old in (1, 2, 3):
        with pytest.raises(AlreadyExists, match="earlier than the newest 4"):
            model.append(old)


def test_a_record_that_comes_late_is_new_however_late_it_is() -> None:
    model = Model(4)
    model.append(1, 3)
    model.append(*range(4, 40))
    assert model.append(2) == [len(model.records) - 1]


def test_an_id_far_ahead_closes_nothing_behind_it() -> None:
    model = Model(4)
    model.append(2**53 - 1)
    assert model.append(*range(1, 20)) == list(range(1, 20))
    with pytest.raises(AlreadyExists):
        model.append(2**53 - 1)


def test_a_flood_of_one_peer_pushes_nothing_of_another_out_of_its_window() -> None:
    model = Model(4)
    model.append(1, 2, instance="gateway-1")
    model.append(*range(1, 1_000), instance="ratelimit-1")
    assert model.append(1, 2, instance="gateway-1") == [0, 1]


def test_batches_that_are_refused_push_nothing_out_of_the_window() -> None:
    model = Model(4)
    model.append(1, 2, 3, 4)
    for turn in range(10):
        for i in range(4):
            record_id = RecordId(9, "gateway-1", turn * 4 + i + 1)
            model.ids.add(record_id, 4 + i, leaf(record_id))
        model.ids.take_back(4)
    assert model.append(1, 2, 3, 4) == [0, 1, 2, 3]
    assert model.append(1, epoch=9) == [4]


def test_what_is_taken_back_is_forgotten() -> None:
    model = Model(8)
    model.append(1, 2, 3)
    model.ids.take_back(1)
    del model.records[1:]
    assert model.append(1) == [0]
    assert model.append(3, 2) == [1, 2]


def test_boots_that_left_the_window_stay_known_as_long_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BOOTS", 5)
    model = Model(3)
    for epoch in range(1, 51):
        model.append(1, epoch=epoch)
    assert len(model.ids._streams) == 5 + 3
    for epoch in (43, 47):
        with pytest.raises(AlreadyExists):
            model.append(1, epoch=epoch)


def test_taken_back_boots_leave_nothing_behind() -> None:
    ids = Deduplication(4)
    for epoch in range(1, 100):
        ids.add(RecordId(epoch, "gateway-1", 1), 0, bytes(32))
        ids.take_back(0)
    assert not ids._streams


def test_gaps_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GAPS", 10)
    monkeypatch.setattr(module, "MAX_INTERVALS", 25)
    model = Model(3)
    for epoch in range(1, 9):
        model.append(*range(2, 100, 2), epoch=epoch)
    (peer,) = model.ids._peers.values()
    assert peer.intervals == sum(len(stream.old) for stream in model.ids._streams.values()) <= 35


def test_an_instance_is_known_by_its_newest_epoch() -> None:
    model = Model(3)
    for epoch in (5, 9, 2):
        model.append(1, epoch=epoch, instance="audit-0")
    model.append(1, epoch=99, instance="audit-1")
    assert model.ids.newest_epoch("audit-0") == 9
    assert model.ids.newest_epoch("audit-2") == 0


@given(st.lists(st.integers(1, 40), max_size=60))
def test_intervals_are_a_set(numbers: list[int]) -> None:
    intervals = Intervals()
    for number in numbers:
        intervals.add(number)
    assert [n for n in range(45) if n in intervals] == sorted(set(numbers))
    assert intervals.pairs == sorted(intervals.pairs)
    again = Intervals(intervals.pairs)
    assert all((n in again) == (n in intervals) for n in range(45))
    if len(intervals) > 1:
        before = len(intervals)
        intervals.close_lowest_gap()
        assert len(intervals) == before - 1
        assert all(n in intervals for n in numbers)


APPENDS = st.lists(
    st.tuples(
        st.sampled_from(["gateway-1", "gateway-2", "ratelimit"]),
        st.integers(1, 2),
        st.integers(1, 30),
    ),
    max_size=120,
)


@given(appends=APPENDS, cut=st.integers(0, 120))
def test_a_restart_changes_no_answer(appends: list[tuple[str, int, int]], cut: int) -> None:
    model = Model(6)
    taken: dict[RecordId, int] = {}
    for instance, epoch, sequence in appends:
        record_id = RecordId(epoch, instance, sequence)
        try:
            (index,) = model.append(sequence, epoch=epoch, instance=instance)
        except AlreadyExists:
            assert record_id in taken
        else:
            assert taken.setdefault(record_id, index) == index
    size = min(cut, len(model.records))
    # The snapshot may be older than the log's end: everything since is read from the log.
    earlier = Model(6)
    for record_id in model.records[:size]:
        earlier.append(record_id.sequence, epoch=record_id.epoch, instance=record_id.instance)
    snapshot = earlier.ids.snapshot(size)
    again = Deduplication(6)
    again.restore(snapshot)
    ranges = [*snapshot.ranges, (size, len(model.records))]
    again.seed(
        (index, model.records[index], leaf(model.records[index]))
        for first, end in ranges
        for index in range(first, end)
    )
    for record_id in taken:
        assert answer(again, record_id) == answer(model.ids, record_id)


def answer(ids: Deduplication, record_id: RecordId) -> int | str | None:
    try:
        return ids.find(record_id, leaf(record_id))
    except AlreadyExists as error:
        return error.message


def test_a_log_whose_past_is_unknown_refuses_what_may_have_come_before() -> None:
    ids = Deduplication(100)
    record_id = RecordId(1, "gateway-1", 10)
    ids.seed([(50, record_id, leaf(record_id))], whole=False)
    assert ids.find(record_id, leaf(record_id)) == 50
    with pytest.raises(AlreadyExists):
        ids.find(RecordId(1, "gateway-1", 9), b"")
    assert ids.find(RecordId(1, "gateway-1", 11), b"") is None


@pytest.mark.parametrize("damage", [b"", b"x" * 50, None])
def test_a_lost_or_damaged_memory_is_done_without(tmp_path: Path, damage: bytes | None) -> None:
    layout = Layout(tmp_path / "log")
    layout.create()
    tiles = TileDirectory(layout.log, layout.scratch)
    record_id = RecordId(1, "gateway-1", 7)
    behind = [Entry(b"{}", leaf(record_id), record_id, None)]
    identities.save(layout, Snapshot(0, [("gateway-1", 1, [1, 3])], []))
    known = identities.load(layout, tiles, 0, behind)
    assert known.find(record_id, leaf(record_id)) == 0
    with pytest.raises(AlreadyExists):
        known.find(RecordId(1, "gateway-1", 2), b"")
    if damage is None:
        layout.identities.unlink()
    else:
        layout.identities.write_bytes(damage)
    known = identities.load(layout, tiles, 0, behind)
    assert known.find(record_id, leaf(record_id)) == 0
    assert known.find(RecordId(1, "gateway-1", 2), b"") is None


def test_a_memory_of_another_log_is_not_believed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "log")
    layout.create()
    identities.save(layout, Snapshot(500, [("gateway-1", 1, [1, 400])], []))
    known = identities.load(layout, TileDirectory(layout.log, layout.scratch), 0, [])
    assert known.find(RecordId(1, "gateway-1", 5), b"") is None


async def test_retries_are_recognised_after_a_flood_of_another_peer_and_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "Deduplication", partial(Deduplication, window=50))
    started = record_pb2.EVENT_TYPE_DEGRADED_ENTERED

    async def flood(running: RunningLog, epoch: int) -> None:
        events = [
            record(i, instance="ratelimit-0", event_type=started, epoch=epoch)
            for i in range(1, 201)
        ]
        request = pb.AppendRecordsRequest(records=events)
        await running.stub_of("ratelimit").AppendRecords(request)

    async with running_log(tmp_path) as running:
        first = await running.append([record(i) for i in (1, 2, 4)])
        await flood(running, EPOCH)
        assert await running.append([record(1)]) == first[:1]
    async with running_log(tmp_path) as running:
        assert await running.append([record(i) for i in (1, 2, 4)]) == first
        await running.append([record(i) for i in range(5, 105)])
    async with running_log(tmp_path) as running:
        await flood(running, EPOCH + 1)
        for old in (1, 2, 4, 20):
            with pytest.raises(AlreadyExists, match="came before"):
                await running.append([record(old)])
        await running.append([record(3)])
    report = verify(running.log, load_keys(Layout(running.log).keys))
    assert report.findings == []


async def test_one_peer_cannot_take_the_ids_of_another(tmp_path: Path) -> None:
    async with running_log(tmp_path) as running:
        mine = record(1, event_type=record_pb2.EVENT_TYPE_DEGRADED_ENTERED)
        with pytest.raises(PermissionDenied):
            await running.stub_of("ratelimit").AppendRecords(
                pb.AppendRecordsRequest(records=[mine])
            )
        assert await running.append([record(1)]) == [3]
