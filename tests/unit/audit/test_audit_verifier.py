"""The verifier: whatever is done to a log's files is found, named and placed."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.integration import Integrator
from services.audit.keys.archive import KeyArchive
from services.audit.keys.signatures import Keys, load_keys
from services.audit.keys.signers import Signer, generate_ed25519, load_ed25519, load_rsa
from services.audit.layout import Layout
from services.audit.merkle import TILE_WIDTH, RightEdge, leaf_hash, root_of
from services.audit.ports import Entry
from services.audit.record import Record, RecordId, encode
from services.audit.tiles import (
    ENTRIES,
    Tile,
    TileDirectory,
    pack_entries,
    parse_path,
    unpack_entries,
)
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from tests.fakes.auditlog import files_of, quick_keys

ORIGIN = "weaver.test/log"


def signers(origin: str = ORIGIN) -> list[Signer]:
    rsa, ed25519 = quick_keys()
    return [
        Signer(origin, load_rsa(rsa.encode(), "test", production=False)),
        Signer(origin, load_ed25519(ed25519.encode(), "test")),
    ]


def archive() -> KeyArchive:
    keys = KeyArchive(ORIGIN)
    keys.use([signer.verifier for signer in signers()], 1_700_000_000)
    return keys


def entry(sequence: int, **fields: object) -> Entry:
    record_id = RecordId(1, "gateway-1", sequence)
    values: dict[str, object] = {"type": "refusal", "event_time": "t", **fields}
    data = encode(Record(id=record_id, version=1, **values))  # type: ignore[arg-type]
    return Entry(data, leaf_hash(data), record_id, None)


def grow(path: Path, batches: Sequence[Sequence[Entry]], who: Sequence[Signer] = ()) -> Path:
    """Write a log in steps, a checkpoint after each, and return its directory."""
    log, scratch = path / "log", path / "scratch"
    log.mkdir(parents=True)
    scratch.mkdir()
    integrator = Integrator(
        origin=ORIGIN,
        tiles=TileDirectory(log, scratch),
        checkpoint_path=log / "checkpoint",
        signers=lambda: who or signers(),
        edge=RightEdge(),
        bundle=[],
    )
    for batch in batches:
        integrator.integrate(batch)
    return log


def steps(*ends: int) -> list[list[Entry]]:
    """Return records 1 to the last of these, in batches that end at each."""
    starts = (0, *ends)
    return [
        [entry(i + 1) for i in range(first, end)] for first, end in zip(starts, ends, strict=False)
    ]


def check(log: Path, **options: object) -> Report:
    return verify(log, Keys(archive()), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 600 records in several checkpoints, superseded partial tiles included."""
    return grow(tmp_path_factory.mktemp("pristine"), steps(3, 250, 300, 520, 540, 600))


@pytest.fixture
def log(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "log"))


def bundle_edit(log: Path, name: str, edit: Callable[[list[bytes]], None]) -> None:
    path = log / "tile" / "entries" / name
    entries = unpack_entries(path.read_bytes())
    edit(entries)
    path.write_bytes(pack_entries(entries))


def test_a_log_as_it_was_written_is_good(log: Path) -> None:
    report = check(log)
    assert report.good
    assert (report.size, report.good_records, report.checkpoints, report.beyond) == (600, 600, 1, 0)
    assert [(line.algorithm, line.state) for line in report.signatures] == [
        ("RSA", "good"),
        ("Ed25519", "good"),
    ]


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 66_000])
def test_a_log_of_any_size_is_good(tmp_path: Path, size: int) -> None:
    report = check(grow(tmp_path, steps(size) if size else [[]]))
    assert report.findings == []
    assert report.good_records == size


def test_a_flipped_byte_of_any_file_is_named(log: Path) -> None:
    files = files_of(log)
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        name = str(path.relative_to(log))
        for place in {0, 1, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}:
            for flip in (0x01, 0x20, 0x80):
                path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
                report = check(log)
                assert not report.good, (name, place, flip)
                assert any(f.path == name for f in report.findings), (name, place, report.findings)
                if name != "checkpoint":
                    assert not report.passed("integrity")
        path.write_bytes(data)
    assert check(log).good


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_is_found(pristine: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(pristine)))
    original = path.read_bytes()
    changed = bytearray(original)
    changed[data.draw(st.integers(0, len(original) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(changed)
        assert not check(pristine).good
    finally:
        path.write_bytes(original)


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_cut_or_added_byte_is_found(pristine: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(files_of(pristine)))
    original = path.read_bytes()
    place = data.draw(st.integers(0, len(original)))
    extra = data.draw(st.binary(max_size=3))
    rest = original[place + data.draw(st.integers(0 if extra else 1, 40)) :]
    changed = original[:place] + extra + rest
    try:
        path.write_bytes(changed)
        assert check(pristine).good == (changed == original)
    finally:
        path.write_bytes(original)


def test_a_removed_file_is_named_unless_a_wider_one_holds_it(log: Path) -> None:
    for path in files_of(log):
        name = str(path.relative_to(log))
        data = path.read_bytes()
        path.unlink()
        report = check(log)
        tile = parse_path(name.removeprefix("tile/"))
        widest = tile is None or not [
            width
            for width in range(tile.width + 1, TILE_WIDTH + 1)
            if (log / "tile" / tile._replace(width=width).path).exists()
        ]
        assert report.good != widest, name
        if widest:
            assert any(f.path == name for f in report.findings), (name, report.findings)
            assert {f.kind for f in report.findings} & {"missing", "truncated"}
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "checkpoint.bak",
        "tile/checkpoint",
        "tile/0/0",
        "tile/0/000.p/256",
        "tile/0/009",
        "tile/0/002.p/200",
        "tile/1/001",
        "tile/3/000.p/1",
        "tile/entries/004",
        "tile/entries/000.tmp",
        ".hidden",
    ],
)
def test_an_added_file_is_named(log: Path, name: str) -> None:
    (log / name).parent.mkdir(parents=True, exist_ok=True)
    (log / name).write_bytes(b"\x00\x01x")
    report = check(log)
    assert any(f.path == name for f in report.findings), report.findings
    (log / name).unlink()
    assert check(log).good


def test_a_link_in_a_files_place_is_named(log: Path, tmp_path: Path) -> None:
    path = log / "tile" / "0" / "000"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert any(f.path == "tile/0/000" for f in check(log).findings)


@pytest.mark.parametrize(
    ("name", "first", "edit", "kind", "index"),
    [
        ("001", 256, lambda e: e.__setitem__(44, entry(9_999).data), "changed", 300),
        ("001", 256, lambda e: e.__delitem__(44), "missing", 300),
        ("001", 256, lambda e: e.__delitem__(slice(44, 46)), "missing", 300),
        ("001", 256, lambda e: e.insert(44, entry(9_999).data), "inserted", 300),
        ("001", 256, lambda e: e.__setitem__(slice(44, 46), e[45:43:-1]), "reordered", 300),
        ("000", 0, lambda e: e.__delitem__(slice(0, 10)), "missing", 0),
        ("002.p/88", 512, lambda e: e.__delitem__(slice(80, 88)), "truncated", 592),
        ("002.p/88", 512, lambda e: e.__setitem__(87, entry(9_999).data), "changed", 599),
        ("002.p/88", 512, lambda e: e.append(entry(9_999).data), "inserted", 600),
        ("001", 256, lambda e: e.append(entry(9_999).data), "inserted", 512),
    ],
)
def test_each_kind_of_edit_is_named_with_its_first_record(  # noqa: PLR0913, PLR0917 - a table
    log: Path,
    name: str,
    first: int,
    edit: Callable[[list[bytes]], None],
    kind: str,
    index: int,
) -> None:
    bundle_edit(log, name, edit)
    report = check(log)
    assert report.first_bad_index == index
    finding = report.findings[0]
    assert (finding.verdict, finding.kind, finding.index) == ("integrity", kind, index)
    assert finding.path is not None
    assert finding.path.startswith("tile/entries/")


def test_entries_changed_together_with_their_tile_are_found(log: Path) -> None:
    bundle_edit(log, "001", lambda e: e.__setitem__(7, entry(9_999).data))
    entries = unpack_entries((log / "tile" / "entries" / "001").read_bytes())
    (log / "tile" / "0" / "001").write_bytes(b"".join(leaf_hash(e) for e in entries))
    report = check(log)
    kinds = {f.kind for f in report.findings if f.verdict == "integrity"}
    assert (kinds, report.first_bad_index) == ({"changed"}, 256)
    assert any("256 to 511" in f.message for f in report.findings)
    assert report.good_records == 600 - 256


def test_a_tree_that_was_rewritten_to_the_top_is_forked(tmp_path: Path) -> None:
    log = grow(tmp_path / "one", steps(600))
    other = grow(tmp_path / "two", [[entry(i + 1, reason="forged") for i in range(600)]])
    shutil.copy(log / "checkpoint", other / "checkpoint")
    report = check(other)
    assert {f.kind for f in report.findings} == {"forked"}
    assert report.passed("signatures")


def test_a_log_that_was_cut_back_to_an_older_checkpoint_is_found(tmp_path: Path) -> None:
    old = grow(tmp_path / "old", steps(520))
    new = grow(tmp_path / "new", steps(520, 600))
    published = parse_signed_checkpoint((new / "checkpoint").read_bytes())
    report = check(old, history=[published])
    assert [(f.kind, f.index) for f in report.findings] == [("rolled back", 520)]


def test_a_fork_of_what_was_published_is_found(tmp_path: Path) -> None:
    log = grow(tmp_path / "one", steps(300, 600))
    other = grow(tmp_path / "two", [[entry(i + 1, reason="forged") for i in range(600)]])
    published = parse_signed_checkpoint((log / "checkpoint").read_bytes())
    half = grow(tmp_path / "half", steps(300))
    older = parse_signed_checkpoint((half / "checkpoint").read_bytes())
    assert check(log, history=[older, published]).checkpoints == 2
    report = check(other, history=[older])
    assert [f.kind for f in report.findings] == ["forked"]
    assert "first 300 records" in report.findings[0].message


def test_history_of_every_size_is_found_in_the_tree(tmp_path: Path) -> None:
    history: list[SignedCheckpoint] = []
    log = tmp_path / "none"
    for size in (1, 255, 256, 257, 400, 512, 513):
        log = grow(tmp_path / str(size), steps(size))
        history.append(parse_signed_checkpoint((log / "checkpoint").read_bytes()))
    report = check(log, history=history)
    assert report.findings == []
    assert report.checkpoints == 7


def test_a_signature_by_another_key_is_found(tmp_path: Path) -> None:
    stranger = Signer(ORIGIN, generate_ed25519())
    report = check(grow(tmp_path, steps(5), [stranger]))
    assert report.passed("integrity")
    assert not report.passed("signatures")
    assert any("by no key in the archive" in f.message for f in report.findings)
    assert any("no trusted key" in f.message for f in report.findings)


def test_a_dropped_signature_line_is_found(log: Path) -> None:
    lines = (log / "checkpoint").read_text().splitlines(keepends=True)
    for drop in (4, 5):
        (log / "checkpoint").write_text("".join(lines[:drop] + lines[drop + 1 :]))
        report = check(log)
        assert [f.kind for f in report.findings] == ["wrongly signed"]
        assert "active" in report.findings[0].message


def test_a_single_public_key_is_enough_to_verify(log: Path, tmp_path: Path) -> None:
    for signer in signers():
        path = tmp_path / "key"
        for text in (signer.verifier.pem, f"{signer.verifier}\n"):
            path.write_text(text)
            report = verify(log, load_keys(path))
            assert report.good
            assert sorted(line.state for line in report.signatures) == ["good", "not checked"]
    path.write_text(generate_ed25519_pem())
    assert not verify(log, load_keys(path)).good


def generate_ed25519_pem() -> str:
    return Signer("x", generate_ed25519()).verifier.pem


def test_what_lies_behind_the_checkpoint_is_counted_and_no_damage(tmp_path: Path) -> None:
    log = grow(tmp_path / "a", steps(3, 300))
    checkpoint = (log / "checkpoint").read_bytes()
    for end in (301, 512, 700, 1_100):
        grown = grow(tmp_path / str(end), steps(3, 300, end))
        (grown / "checkpoint").write_bytes(checkpoint)
        report = check(grown)
        assert report.findings == []
        assert (report.size, report.beyond) == (300, end - 300)


def test_damage_behind_the_checkpoint_is_found_where_files_contradict(tmp_path: Path) -> None:
    log = grow(tmp_path / "a", steps(300))
    grown = grow(tmp_path / "b", steps(300, 1_100))
    shutil.copy(log / "checkpoint", grown / "checkpoint")
    for name in ("entries/002", "0/003", "1/000.p/4", "entries/004.p/76"):
        path = grown / "tile" / name
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert not check(grown).good, name
        path.write_bytes(data)
    assert check(grown).good


def test_bundles_written_before_their_tiles_are_no_damage(tmp_path: Path) -> None:
    log = grow(tmp_path, steps(300))
    tiles = TileDirectory(log, tmp_path / "scratch")
    tiles.write(Tile(ENTRIES, 1), pack_entries(entry(i + 1).data for i in range(256, 512)))
    tiles.write(Tile(ENTRIES, 2, 5), pack_entries(entry(i + 1).data for i in range(512, 517)))
    report = check(log)
    assert report.findings == []
    assert report.beyond == 217


def test_a_directory_without_a_checkpoint_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    report = verify(tmp_path / "log", Keys(archive()))
    assert [f.kind for f in report.findings] == ["missing"]


def test_the_archive_beside_a_log_is_found(tmp_path: Path) -> None:
    log = grow(tmp_path, steps(5))
    archive().save(Layout(log).keys)
    assert verify(log, load_keys(Layout(log).keys)).good


def test_progress_is_told(log: Path) -> None:
    told: list[tuple[int, int]] = []
    check(log, progress=lambda done, size: told.append((done, size)))
    assert told == [(256, 600), (512, 600), (600, 600)]


def test_intents_without_outcome_are_interrupted_and_no_damage(tmp_path: Path) -> None:
    records = [
        entry(1, type="intent"),
        entry(2, type="intent"),
        entry(3, type="outcome", intent_id=RecordId(1, "gateway-1", 1)),
    ]
    report = check(grow(tmp_path, [records]))
    assert report.good
    assert report.interrupted == [(1, "gateway-1/1/2")]


@pytest.mark.parametrize(
    ("records", "kind", "sentence"),
    [
        ([entry(1), entry(3)], "missing", "record 2 is missing"),
        ([entry(2), entry(7)], "missing", "record 1 is missing"),
        ([entry(1), entry(5)], "missing", "records 2 to 4 are missing"),
        ([entry(1), entry(1)], "duplicated", "record 1 has the id"),
        ([entry(1, type="outcome")], "unfounded", "without an open intent"),
    ],
)
def test_an_incomplete_log_is_intact_but_not_complete(
    tmp_path: Path, records: list[Entry], kind: str, sentence: str
) -> None:
    report = check(grow(tmp_path, [records]))
    assert report.passed("integrity")
    assert not report.passed("completeness")
    assert report.findings[0].kind == kind
    assert sentence in report.findings[0].message


def test_an_entry_that_is_no_record_is_unreadable(tmp_path: Path) -> None:
    data = b"not json"
    alien = Entry(data, leaf_hash(data), RecordId(1, "x", 1), None)
    report = check(grow(tmp_path, [[alien]]))
    assert report.passed("integrity")
    assert [f.kind for f in report.findings] == ["unreadable"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with a full tile at level 1: 66,000 records."""
    return grow(tmp_path_factory.mktemp("large"), steps(66_000))


@pytest.mark.parametrize(
    ("name", "place", "index"),
    [
        ("tile/1/000", 32 * 7, 7 * 256),
        ("tile/1/000", 8_191, 255 * 256),
        ("tile/1/001.p/1", 0, 65_536),
        ("tile/2/000.p/1", 31, 0),
        ("tile/0/100", 32, 25_601),
    ],
)
def test_a_changed_tile_of_any_level_is_named_and_no_record_blamed(
    large: Path, name: str, place: int, index: int
) -> None:
    original = (large / name).read_bytes()
    changed = bytearray(original)
    changed[place] ^= 1
    (large / name).write_bytes(changed)
    try:
        report = check(large)
    finally:
        (large / name).write_bytes(original)
    assert [(f.kind, f.path, f.index) for f in report.findings] == [("changed", name, index)]
    assert report.good_records == 66_000


def test_records_replaced_with_two_levels_of_tiles_are_found(large: Path, tmp_path: Path) -> None:
    log = Path(shutil.copytree(large, tmp_path / "log"))
    bundle_edit(log, "010", lambda e: e.__setitem__(7, entry(2_568, reason="x").data))
    entries = unpack_entries((log / "tile" / "entries" / "010").read_bytes())
    leaves = [leaf_hash(e) for e in entries]
    (log / "tile" / "0" / "010").write_bytes(b"".join(leaves))
    report = check(log)
    assert [(f.kind, f.index) for f in report.findings] == [("changed", 2_560)]
    above = bytearray((log / "tile" / "1" / "000").read_bytes())
    above[320:352] = root_of(leaves)
    (log / "tile" / "1" / "000").write_bytes(above)
    report = check(log)
    assert [(f.kind, f.index) for f in report.findings] == [("changed", 0)]
    assert "records 0 to 65535 were replaced" in report.findings[0].message
    assert report.good_records == 464
