"""What is kept beside the log: the index, the side store, the window of ids, the history."""

from pathlib import Path

import pytest

from services.audit.checkpoint import Checkpoint, SignedCheckpoint
from services.audit.history import History, read_history
from services.audit.index import Filter, Index
from services.audit.keys.signers import Signer, generate_ed25519
from services.audit.merkle import leaf_hash
from services.audit.note import NoteError, sign_note
from services.audit.ports import Entry
from services.audit.record import EventType, Principal, Record, RecordId, encode


def entry(
    sequence: int, *, subject: str = "", kind: EventType = "refusal", key: bytes | None = None
) -> Entry:
    record = Record(
        id=RecordId(1, "gateway-1", sequence),
        version=1,
        type=kind,
        event_time=f"2023-11-14T22:13:{sequence:02d}.000000Z",
        request_id=f"r{sequence}" if subject else "",
        principal=Principal("apikey", subject=subject, tenant="acme") if subject else None,
    )
    data = encode(record)
    return Entry(data, leaf_hash(data), record.id, key)


def test_the_index_finds_and_follows(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    entries = [entry(i, subject="ab"[i % 2], kind="intent") for i in range(10)] + [entry(10)]
    index.apply(0, entries[:5])
    index.apply(3, entries[3:])
    index.apply(0, entries[:5])
    assert index.size == 11

    def found(wanted: Filter) -> list[int]:
        return index.find(wanted, limit=100, after=None, ascending=True)

    assert found(Filter()) == list(range(11))
    assert found(Filter(tenant="acme", subject="b")) == [1, 3, 5, 7, 9]
    assert found(Filter(issuer="apikey", request_id="r4")) == [4]
    assert found(Filter(types=("refusal",))) == [10]
    assert found(Filter(start_time="2023-11-14T22:13:08", end_time="2023-11-14T22:13:10")) == [8, 9]
    assert index.find(Filter(), limit=2, after=5, ascending=False) == [4, 3]
    index.close()
    index = Index(tmp_path / "index.db")
    assert index.size == 11
    index.reset()
    assert index.size == 0
    assert found(Filter()) == []
    index.close()


def test_an_index_of_another_version_is_made_anew(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    index.apply(0, [entry(1)])
    index._database.execute("PRAGMA user_version = 99")
    index.close()
    index = Index(tmp_path / "index.db")
    assert index.size == 0
    index.close()


def test_an_entry_that_is_no_record_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    with pytest.raises(ValueError, match=r"."):
        index.add(0, [entry(1, subject="a").data, b"not a record"])
    assert index.size == 0
    index.add(0, [entry(1, subject="a").data])
    assert index.find(Filter(subject="a"), limit=5, after=None, ascending=True) == [0]
    index.close()


def signed(size: int) -> SignedCheckpoint:
    checkpoint = Checkpoint("log", size, bytes(32))
    return SignedCheckpoint(
        checkpoint, sign_note(checkpoint.text, [Signer("log", generate_ed25519())])
    )


def test_history_keeps_one_a_minute_and_the_last(tmp_path: Path) -> None:
    path = tmp_path / "history"
    assert read_history(path) == []
    history = History(path)
    history.flush()
    for at in range(0, 130, 10):
        history.take(signed(at), float(at))
    history.flush()
    assert [c.checkpoint.size for c in read_history(path)] == [0, 60, 120]
    history.take(signed(125), 125.0)
    history.flush()
    assert [c.checkpoint.size for c in read_history(path)] == [0, 60, 120, 125]


def test_a_torn_line_of_history_is_cut_off_and_a_damaged_one_named(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = History(path)
    history.take(signed(1), 0.0)
    path.write_bytes(path.read_bytes() + b'{"time":1,"check')
    assert [c.checkpoint.size for c in read_history(path)] == [1]
    again = History(path)
    again.take(signed(2), 100.0)
    assert [c.checkpoint.size for c in read_history(path)] == [1, 2]
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(NoteError, match="line 1"):
        read_history(path)
