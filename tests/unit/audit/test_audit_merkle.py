"""The Merkle tree, against the published vectors and against RFC 6962's own recursion."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit import merkle
from services.audit.merkle import RightEdge, leaf_hash, node_hash

# The reference tree of Certificate Transparency.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (0, 1): (),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}


class Hashes:
    """Reads subtrees from leaf hashes in memory."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves = leaves

    def node(self, level: int, index: int) -> bytes:
        return naive_root(self.leaves[index << level : (index + 1) << level])


def naive_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return merkle.EMPTY_ROOT
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(naive_root(leaves[:k]), naive_root(leaves[k:]))


def some_leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(i).encode()) for i in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference_tree(size: int) -> None:
    leaves = [leaf_hash(entry) for entry in LEAVES[:size]]
    edge = RightEdge()
    list(edge.append(leaves))
    expected = bytes.fromhex(ROOTS[size])
    assert edge.root() == merkle.root_of(leaves) == expected
    assert merkle.tree_root(Hashes(leaves), size) == expected


@pytest.mark.parametrize(("at", "expected"), INCLUSION.items())
def test_inclusion_proofs_are_those_of_the_reference_tree(
    at: tuple[int, int], expected: tuple[str, ...]
) -> None:
    leaves = [leaf_hash(entry) for entry in LEAVES]
    proof = merkle.inclusion_proof(Hashes(leaves), *at)
    assert [digest.hex() for digest in proof] == list(expected)


@pytest.mark.parametrize(("sizes", "expected"), CONSISTENCY.items())
def test_consistency_proofs_are_those_of_the_reference_tree(
    sizes: tuple[int, int], expected: tuple[str, ...]
) -> None:
    leaves = [leaf_hash(entry) for entry in LEAVES]
    proof = merkle.consistency_proof(Hashes(leaves), *sizes)
    assert [digest.hex() for digest in proof] == list(expected)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 31, 33, 64])
def test_every_inclusion_proof_verifies_and_no_changed_one_does(size: int) -> None:
    leaves = some_leaves(size)
    root = naive_root(leaves)
    for index in range(size):
        proof = merkle.inclusion_proof(Hashes(leaves), index, size)
        assert merkle.verify_inclusion(leaves[index], index, size, proof, root)
        assert not merkle.verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
        assert not merkle.verify_inclusion(leaves[index], index, size, [*proof, root], root)
        assert not merkle.verify_inclusion(leaves[index], index, size, proof, bytes(32))
        for other in range(size):
            if other != index:
                assert not merkle.verify_inclusion(leaves[index], other, size, proof, root)
        for place in range(len(proof)):
            changed = [*proof[:place], bytes(32), *proof[place + 1 :]]
            assert not merkle.verify_inclusion(leaves[index], index, size, changed, root)
            cut = proof[:place] + proof[place + 1 :]
            assert not merkle.verify_inclusion(leaves[index], index, size, cut, root)


@pytest.mark.parametrize("second", [1, 2, 3, 8, 21, 32, 33])
def test_every_consistency_proof_verifies_and_no_changed_one_does(second: int) -> None:
    leaves = some_leaves(second)
    root = naive_root(leaves)
    for first in range(second + 1):
        old = naive_root(leaves[:first])
        proof = merkle.consistency_proof(Hashes(leaves), first, second)
        assert merkle.verify_consistency(first, second, proof, old, root)
        assert not merkle.verify_consistency(first, second, [*proof, root], old, root)
        if first:
            assert not merkle.verify_consistency(first, second, proof, bytes(32), root)
            assert not merkle.verify_consistency(first, second, proof, old, bytes(32))
        for place in range(len(proof)):
            cut = proof[:place] + proof[place + 1 :]
            assert not merkle.verify_consistency(first, second, cut, old, root)


def test_proofs_outside_the_tree_are_refused() -> None:
    leaves = Hashes(some_leaves(4))
    with pytest.raises(ValueError, match="outside"):
        merkle.inclusion_proof(leaves, 4, 4)
    with pytest.raises(ValueError, match="prefix"):
        merkle.consistency_proof(leaves, 5, 4)
    assert not merkle.verify_inclusion(bytes(32), 4, 4, [], bytes(32))
    assert not merkle.verify_consistency(5, 4, [], bytes(32), bytes(32))
    assert not merkle.verify_consistency(3, 4, [], bytes(32), bytes(32))


@given(st.lists(st.integers(min_value=0, max_value=700), max_size=6))
def test_the_right_edge_has_the_root_whatever_the_steps(steps: list[int]) -> None:
    leaves = some_leaves(sum(steps))
    edge = RightEdge()
    full: dict[tuple[int, int], list[bytes]] = {}
    position = 0
    for step in steps:
        for level, number, hashes in edge.append(leaves[position : position + step]):
            full[level, number] = list(hashes)
        position += step
        assert edge.root() == merkle.root_of(leaves[:position])
    assert edge.size == len(leaves)
    assert all(len(hashes) == 256 for hashes in full.values())
    assert {number for level, number in full if level == 0} == set(range(len(leaves) // 256))
    assert RightEdge(edge.size, edge.levels).root() == edge.root()


@pytest.mark.parametrize("size", [255, 256, 257, 65_535, 65_536, 65_537, 70_000])
def test_the_right_edge_is_right_around_each_power_of_256(size: int) -> None:
    leaves = some_leaves(size)
    edge = RightEdge()
    tiles = sum(1 for _ in edge.append(leaves))
    assert edge.root() == merkle.root_of(leaves)
    assert tiles == size // 256 + size // 65_536
    assert [len(level) for level in edge.levels if level] == [
        rows for level in range(3) if (rows := (size >> (8 * level)) % 256)
    ]
