"""Tiles and entry bundles, against the words of C2SP tlog-tiles."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.merkle import (
    RightEdge,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from services.audit.tiles import (
    ENTRIES,
    Tile,
    TileDirectory,
    TileReader,
    pack_entries,
    parse_path,
    tiles_of,
    unpack_entries,
)


def directory(path: Path) -> TileDirectory:
    (path / "log").mkdir()
    (path / "scratch").mkdir()
    return TileDirectory(path / "log", path / "scratch")


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 1_234_067), "0/x001/x234/067"),
        (Tile(0, 0), "0/000"),
        (Tile(1, 999), "1/999"),
        (Tile(2, 1_000), "2/x001/000"),
        (Tile(63, 5, 17), "63/005.p/17"),
        (Tile(ENTRIES, 1_234, 255), "entries/x001/234.p/255"),
    ],
)
def test_a_tile_is_named_as_the_specification_names_it(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0",
        "0/0",
        "00/000",
        "64/000",
        "0/000.p/0",
        "0/000.p/256",
        "0/000.p/01",
        "0/000.p",
        "0/x000/001",
        "0/001/234",
        "0/x001/x234",
        "0/../../../etc/passwd",
        "/0/000",
        "0/000/",
        "0/000\n",
        "0/\u0660\u0660\u0660",
        "entries/../checkpoint",
        "data/000",
    ],
)
def test_nothing_else_is_a_tiles_name(path: str) -> None:
    assert parse_path(path) is None


def test_a_tree_of_70000_has_the_tiles_of_the_specifications_example() -> None:
    tiles = list(tiles_of(70_000))
    assert len([tile for tile in tiles if tile.level == 0 and tile.width == 256]) == 273
    assert [tile.width for tile in tiles if tile.level == 0][-1] == 112
    assert [tile.width for tile in tiles if tile.level == 1] == [256, 17]
    assert [tile.width for tile in tiles if tile.level == 2] == [1]
    assert [tile for tile in tiles_of(256) if tile.level >= 0] == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of(0)) == []


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_gives_its_entries_back(entries: list[bytes]) -> None:
    assert unpack_entries(pack_entries(entries)) == entries


def test_a_bundle_that_breaks_off_is_refused() -> None:
    bundle = pack_entries([b"one", b"two"])
    for end in range(1, len(bundle)):
        if end != 5:
            with pytest.raises(ValueError, match="breaks off"):
                unpack_entries(bundle[:end])


def test_the_largest_entry_fits() -> None:
    assert unpack_entries(pack_entries([b"x" * 65_535])) == [b"x" * 65_535]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600, 65_536, 66_000])
def test_proofs_come_out_of_tiles(tmp_path: Path, size: int) -> None:
    tiles = directory(tmp_path)
    leaves = [leaf_hash(str(i).encode()) for i in range(size)]
    edge = RightEdge()
    for level, number, hashes in edge.append(leaves):
        tiles.write(Tile(level, number), b"".join(hashes))
    for level, hashes in enumerate(edge.levels):
        if hashes:
            number = size >> (8 * (level + 1))
            tiles.write(Tile(level, number, len(hashes)), b"".join(hashes))
    tiles.sync()
    reader = TileReader(tiles, size)
    root = tree_root(reader, size)
    assert root == root_of(leaves)
    for index in {0, 1, size // 2, size - 1} & set(range(size)):
        proof = inclusion_proof(TileReader(tiles, size), index, size)
        assert verify_inclusion(leaves[index], index, size, proof, root)
    for first in {1, size // 3, size - 1} & set(range(1, size)):
        proof = consistency_proof(TileReader(tiles, size), first, size)
        assert verify_consistency(first, size, proof, root_of(leaves[:first]), root)


def test_a_partial_tile_that_is_gone_is_cut_out_of_the_full_one(tmp_path: Path) -> None:
    tiles = directory(tmp_path)
    tiles.write(Tile(0, 0), bytes(range(256)) * 32)
    tiles.write(Tile(ENTRIES, 0), pack_entries([bytes([i]) for i in range(256)]))
    assert tiles.read(Tile(0, 0, 2)) == bytes(range(64))
    assert unpack_entries(tiles.read(Tile(ENTRIES, 0, 3))) == [b"\x00", b"\x01", b"\x02"]


def test_a_tile_that_is_too_short_is_refused(tmp_path: Path) -> None:
    tiles = directory(tmp_path)
    tiles.write(Tile(0, 0, 3), bytes(95))
    tiles.write(Tile(ENTRIES, 0, 3), pack_entries([b"a", b"b"]))
    for level in (0, ENTRIES):
        with pytest.raises(ValueError, match="tile/"):
            tiles.read(Tile(level, 0, 3))


def test_partial_tiles_go_when_the_full_one_is_there(tmp_path: Path) -> None:
    tiles = directory(tmp_path)
    tiles.write(Tile(0, 0, 3), bytes(96))
    tiles.write(Tile(0, 0), bytes(8192))
    tiles.remove_partials(Tile(0, 0))
    tiles.remove_partials(Tile(0, 1))
    assert [path.name for path in (tiles.log / "tile" / "0").iterdir()] == ["000"]
