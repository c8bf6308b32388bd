"""Promise 4: whatever a forger does to a log of any size is found, and has its name."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from services.audit.keys.archive import KeyArchive
from services.audit.keys.signatures import Keys
from services.audit.merkle import TILE_WIDTH, inclusion_proof, leaf_hash, node_hash
from services.audit.note import NoteError, sign_note
from services.audit.receipt import Receipt, verify_receipt
from services.audit.tiles import ENTRIES, Tile, tiles_of
from services.audit.verification.blame import Blame
from services.audit.verification.report import Report
from services.audit.verification.verifier import verify
from tests.fakes.biglog import ORIGIN, entry, keys_of, signer
from tests.fakes.memorylog import MemoryLog, plain_entries, unsigned

EDGES = (2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 69_999, 70_000)
FORGED = entry(10**6).data

sizes = st.one_of(st.integers(2, 600), st.sampled_from(EDGES[:7]), st.integers(2, 3_000))
places = st.floats(0, 1, exclude_max=True)
some = settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow], database=None
)


def check(log: MemoryLog, **options: object) -> Report:
    return verify(log, keys_of(), **options)  # type: ignore[arg-type]


def found(report: Report) -> tuple[str, int | None]:
    """Return the first damage to integrity: its kind and its record."""
    damage = [f for f in report.findings if f.verdict == "integrity"]
    assert damage, report.findings
    return damage[0].kind, report.first_bad_index


def at(size: int, place: float) -> tuple[int, int, int]:
    """Return a record of a log, its bundle, and its place in that."""
    index = int(size * place)
    return index, *divmod(index, TILE_WIDTH)


@pytest.mark.parametrize("size", [0, 1, *EDGES])
def test_a_log_that_nobody_touched_is_good(size: int) -> None:
    report = check(MemoryLog(plain_entries(size)))
    assert report.findings == []
    assert report.good_records == size


@some
@given(size=sizes, place=places)
@example(size=70_000, place=0.99999)
def test_an_edited_record_is_changed(size: int, place: float) -> None:
    index, number, offset = at(size, place)
    log = MemoryLog(plain_entries(size))
    log.edit_bundle(number, lambda part: part.__setitem__(offset, FORGED))
    assert found(check(log)) == ("changed", index)


@some
@given(size=sizes, place=places, count=st.sampled_from([1, 2]))
@example(size=65_537, place=0.5, count=2)
def test_deleted_records_are_missing_or_truncated(size: int, place: float, count: int) -> None:
    index, number, offset = at(size, place)
    assume(offset + count <= TILE_WIDTH)
    assume(index + count <= size)
    log = MemoryLog(plain_entries(size))
    log.edit_bundle(number, lambda part: part.__delitem__(slice(offset, offset + count)))
    kind = "truncated" if index + count == size else "missing"
    assert found(check(log)) == (kind, index)


@some
@given(size=sizes, place=places, count=st.sampled_from([1, 2]))
@example(size=65_537, place=0.001, count=1)
@example(size=600, place=0.0, count=2)
@example(size=257, place=0.1, count=2)
def test_deleted_records_are_missing_also_when_all_others_move_up(
    size: int, place: float, count: int
) -> None:
    index, _, offset = at(size, place)
    assume(offset < TILE_WIDTH - 4)
    assume(index + count < size - 4)
    entries = plain_entries(size)
    log = MemoryLog(entries)
    log.rewrite_bundles(entries[:index] + entries[index + count :])
    assert found(check(log)) == ("missing", index)


@some
@given(size=sizes, place=places)
@example(size=65_536, place=0.7)
def test_an_inserted_record_is_inserted(size: int, place: float) -> None:
    index, number, offset = at(size, place)
    log = MemoryLog(plain_entries(size))
    log.edit_bundle(number, lambda part: part.insert(offset, FORGED))
    assert found(check(log)) == ("inserted", index)


@some
@given(size=sizes, place=places)
@example(size=600, place=0.3)
def test_an_inserted_record_is_inserted_also_when_all_others_move_down(
    size: int, place: float
) -> None:
    index, _, offset = at(size, place)
    assume(offset < TILE_WIDTH - 4)
    assume(index < size - 4)
    entries = plain_entries(size)
    log = MemoryLog(entries)
    log.rewrite_bundles([*entries[:index], FORGED, *entries[index:]])
    assert found(check(log)) == ("inserted", index)


@some
@given(size=sizes, one=places, other=places)
@example(size=70_000, one=0.1, other=0.9)
@example(size=600, one=0.1, other=0.102)
def test_records_that_changed_places_are_reordered(size: int, one: float, other: float) -> None:
    first, second = sorted((int(size * one), int(size * other)))
    assume(first != second)
    entries = plain_entries(size)
    log = MemoryLog(entries)
    moved = list(entries)
    moved[first], moved[second] = moved[second], moved[first]
    log.rewrite_bundles(moved)
    assert found(check(log)) == ("reordered", first)


@some
@given(size=sizes, count=st.integers(1, 700))
@example(size=70_000, count=1)
@example(size=65_537, count=1)
def test_a_log_without_its_tail_is_truncated(size: int, count: int) -> None:
    assume(count < size)
    log = MemoryLog(plain_entries(size))
    log.rewrite_bundles(plain_entries(size - count))
    kind, index = found(check(log))
    assert (kind, index) == ("truncated", size - count)


@some
@given(size=sizes, count=st.integers(1, 700))
def test_a_log_without_its_head_lacks_records_from_0_on(size: int, count: int) -> None:
    assume(count < size)
    log = MemoryLog(plain_entries(size))
    log.rewrite_bundles(plain_entries(size)[count:])
    kind, index = found(check(log))
    moved_up = size - count >= TILE_WIDTH and count < TILE_WIDTH - 1
    assert kind == "missing" if moved_up or size <= TILE_WIDTH else kind in {"missing", "changed"}
    assert index == 0


@some
@given(size=sizes, which=places, data=st.data())
@example(size=70_000, which=0.999, data=None)
def test_a_tile_that_was_replaced_is_changed_and_named(
    size: int, which: float, data: st.DataObject | None
) -> None:
    tiles = list(tiles_of(size))
    tile = tiles[int(len(tiles) * which)]
    log = MemoryLog(plain_entries(size))
    original = log.read(tile)
    assert original is not None
    if tile.level == ENTRIES:
        log.edit_bundle(
            tile.number, lambda part: part.__setitem__(slice(None), [FORGED] * tile.width)
        )
    else:
        log.changed[tile.path] = leaf_hash(b"x") * tile.width
    report = check(log)
    damage = {(f.kind, f.path) for f in report.findings if f.verdict == "integrity"}
    assert damage == {("changed", f"tile/{tile.path}")}
    log.changed[tile.path] = None
    report = check(log)
    paths = {f.path for f in report.findings if f.verdict == "integrity"}
    assert paths == {f"tile/{tile.path}"}
    assert found(report)[0] in {"missing", "truncated"}


@pytest.mark.parametrize(("size", "one", "other"), [(600, 0, 1), (70_000, 3, 272)])
def test_bundles_that_changed_places_with_their_tiles_are_reordered(
    size: int, one: int, other: int
) -> None:
    log = MemoryLog(plain_entries(size))
    for level in (ENTRIES, 0):
        first, second = Tile(level, one, TILE_WIDTH), Tile(level, other, TILE_WIDTH)
        log.changed[first.path], log.changed[second.path] = log.read(second), log.read(first)
    report = check(log)
    assert {f.kind for f in report.findings if f.verdict == "integrity"} == {"reordered"}
    assert report.first_bad_index == one * TILE_WIDTH
    assert report.good_records == size - 2 * TILE_WIDTH


@some
@given(size=sizes, place=places)
@example(size=70_000, place=0.2)
def test_a_forger_who_rewrites_every_tile_but_has_no_key_is_found(size: int, place: float) -> None:
    entries = plain_entries(size)
    honest = MemoryLog(entries)
    entries[int(size * place)] = FORGED
    forged = MemoryLog(entries, signed=honest.signed)
    assert {f.kind for f in check(forged).findings if f.verdict == "integrity"} == {"forked"}
    forged.note = unsigned(honest.signed, size, forged.root(size))
    report = check(forged)
    assert report.passed("integrity")
    assert "wrongly signed" in {f.kind for f in report.findings}


@some
@given(size=sizes, keep=places, place=places)
@example(size=70_000, keep=0.95, place=0.5)
def test_a_fork_and_a_stolen_old_checkpoint_are_found(size: int, keep: float, place: float) -> None:
    old = max(1, int(size * keep))
    entries = plain_entries(size)
    honest = MemoryLog(entries)
    stolen = honest.sign(old)
    back = MemoryLog(plain_entries(old), signed=stolen)
    kinds = {f.kind for f in check(back, history=[honest.signed]).findings}
    assert kinds == ({"rolled back"} if old < size else set())
    assert check(back).good, "nothing but a newer checkpoint can tell"
    kept_in_place = MemoryLog(entries, signed=stolen)
    kinds = {f.kind for f in check(kept_in_place, history=[honest.signed]).findings}
    assert kinds == ({"rolled back"} if old < size else set())
    entries[int(old * place)] = FORGED
    forged = MemoryLog(entries)
    report = check(forged, history=[stolen])
    assert "forked" in {f.kind for f in report.findings}
    assert "forked" in {f.kind for f in check(forged, since=stolen).findings}


@some
@given(size=sizes, since=places)
@example(size=70_000, since=0.9)
def test_a_log_that_only_grew_is_good_since_any_checkpoint(size: int, since: float) -> None:
    log = MemoryLog(plain_entries(size))
    kept = log.sign(max(1, int(size * since)))
    report = check(log, since=kept)
    assert report.findings == []
    assert report.since == kept.checkpoint.size


def other_key(log: MemoryLog) -> None:
    log.note = str(sign_note(log.signed.note.text, [signer("thief")])).encode()


def other_name(log: MemoryLog) -> None:
    thief = signer("thief", "weaver.test/other")
    log.note = str(sign_note(log.signed.note.text, [thief])).encode()


def other_log(log: MemoryLog) -> None:
    text = log.signed.note.text.replace(ORIGIN, "weaver.test/other")
    log.note = str(sign_note(text, [signer()])).encode()


def resized(log: MemoryLog) -> None:
    log.note = log.note.replace(b"\n600\n", b"\n601\n")


def unicode_origin(log: MemoryLog) -> None:
    log.note = log.note.replace(b"weaver.test", "weaver\u2024test".encode())


def invisible(log: MemoryLog) -> None:
    log.note = log.note.replace(b"/log\n600", "/log\u200b\n600".encode())


def line_separator(log: MemoryLog) -> None:
    log.note = log.note.replace(b"\n600\n", "\u2028600\n".encode())


def other_digits(log: MemoryLog) -> None:
    log.note = log.note.replace(b"\n600\n", "\n\u0666\u0660\u0660\n".encode())


def other_dash(log: MemoryLog) -> None:
    log.note = log.note.replace("— ".encode(), "\u2013 ".encode())


def carriage_returns(log: MemoryLog) -> None:
    log.note = log.note.replace(b"\n", b"\r\n")


def extension(log: MemoryLog) -> None:
    text = log.signed.note.text + "extension\n"
    log.note = str(sign_note(text, [signer()])).encode()


def nothing_signed(log: MemoryLog) -> None:
    log.note = log.signed.note.text.encode() + b"\n"


def endless(log: MemoryLog) -> None:
    log.note += b"x" * 10**6


@pytest.mark.parametrize(
    "forge",
    [
        other_key,
        other_name,
        other_log,
        resized,
        unicode_origin,
        invisible,
        line_separator,
        other_digits,
        other_dash,
        carriage_returns,
        extension,
        nothing_signed,
        endless,
    ],
)
def test_no_trick_passes_for_a_checkpoint(forge: Callable[[MemoryLog], None]) -> None:
    log = MemoryLog(plain_entries(600))
    forge(log)
    report = check(log)
    assert not report.good
    assert not (report.passed("signatures") and report.passed("integrity"))


def test_a_key_outside_its_validity_is_wrongly_signed() -> None:
    old, new = signer(), signer("new")
    keys = KeyArchive(ORIGIN)
    keys.use([old.verifier], 1_700_000_000)
    keys.use([new.verifier], 1_700_086_400)
    before, after = keys.keys
    before.end_size = after.start_size = 300
    log = MemoryLog(plain_entries(600), [old])
    report = verify(log, Keys(keys))
    assert {f.kind for f in report.findings} == {"wrongly signed"}
    assert any("outside its validity" in f.message for f in report.findings)
    assert verify(MemoryLog(plain_entries(600), [new]), Keys(keys)).good
    assert verify(MemoryLog(plain_entries(250), [old]), Keys(keys)).passed("signatures")


def test_a_receipt_of_another_log_or_another_record_proves_nothing() -> None:
    log, other = MemoryLog(plain_entries(600)), MemoryLog([FORGED, *plain_entries(599)])
    keys = keys_of().named(ORIGIN)

    class Reading:
        """Reads subtrees of the first log."""

        def node(self, level: int, index: int) -> bytes:
            at_level, height = divmod(level, 8)
            row = log._at(at_level)[index << height : (index + 1) << height]
            while len(row) > 1:
                row = [node_hash(row[i], row[i + 1]) for i in range(0, len(row), 2)]
            return row[0]

    proof = tuple(inclusion_proof(Reading(), 7, 600))
    receipt = Receipt(7, proof, log.signed)
    assert verify_receipt(receipt, log.entries[7], keys)
    for entry_bytes, claimed in (
        (log.entries[8], receipt),
        (FORGED, receipt),
        (log.entries[7], Receipt(8, proof, log.signed)),
        (log.entries[7], Receipt(7, proof, other.signed)),
        (log.entries[7], Receipt(7, proof[:-1], log.signed)),
        (log.entries[7], Receipt(7, (*proof, bytes(32)), log.signed)),
    ):
        with pytest.raises(NoteError):
            verify_receipt(claimed, entry_bytes, keys)


def test_an_entry_that_looks_like_a_node_does_not_pass_for_one() -> None:
    entries = plain_entries(2)
    left, right = (leaf_hash(one) for one in entries)
    honest = MemoryLog(entries)
    forged = MemoryLog([b"\x01" + left + right], signed=honest.signed)
    assert not check(forged).passed("integrity")


def test_a_record_that_stands_twice_is_duplicated() -> None:
    log = MemoryLog([*plain_entries(500), plain_entries(500)[7]])
    report = check(log)
    assert [(f.verdict, f.kind, f.index) for f in report.findings] == [
        ("completeness", "duplicated", 500)
    ]


def test_a_thousand_findings_are_enough() -> None:
    blame = Blame(Report())
    for index in range(2_000):
        blame.appended(Tile(ENTRIES, index))
    assert len(blame.report.findings) == 1_000
