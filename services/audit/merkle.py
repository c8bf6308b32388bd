"""The Merkle tree of RFC 6962, section 2.1, over SHA-256.

Pure arithmetic: hashes in, hashes out. It reads no files and trusts nobody; whoever calls it says
where the hashes come from.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Protocol

EMPTY_ROOT = sha256(b"").digest()
HASH_SIZE = 32
TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry as a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over its two children."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash over a sequence of subtree hashes.

    All but the last stand for complete subtrees of one size; the last may be smaller. Then the
    result is the hash of the tree over all their leaves.
    """
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        paired = [sha256(b"\x01" + row[i] + row[i + 1]).digest() for i in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            paired.append(row[-1])
        row = paired
    return row[0]


class NodeReader(Protocol):
    """Where the hashes of complete subtrees come from."""

    def node(self, level: int, index: int) -> bytes:
        """Return the hash over the leaves from `index << level`, `1 << level` of them."""
        ...


class RightEdge:
    """The right edge of a growing tree: for each level of tiles, the hashes of the partial tile.

    Memory is at most 255 hashes a level, whatever the size of the tree.
    """

    def __init__(self, size: int = 0, levels: Sequence[Sequence[bytes]] = ()) -> None:
        """Continue a tree of a size whose partial tiles hold these hashes, lowest level first."""
        self.size = size
        self.levels: list[list[bytes]] = [list(level) for level in levels] or [[]]

    def append(self, leaves: Sequence[bytes]) -> Iterator[tuple[int, int, list[bytes]]]:
        """Add leaf hashes; yield each tile that became full, as (level, index, hashes).

        A tile is yielded before the tile above it. The edge is consistent again only when the
        iterator is exhausted.
        """
        position = 0
        while position < len(leaves):
            lowest = self.levels[0]
            taken = leaves[position : position + TILE_WIDTH - len(lowest)]
            lowest.extend(taken)
            position += len(taken)
            self.size += len(taken)
            if len(lowest) == TILE_WIDTH:
                yield from self._carry()

    def _carry(self) -> Iterator[tuple[int, int, list[bytes]]]:
        level = 0
        while len(self.levels[level]) == TILE_WIDTH:
            full = self.levels[level]
            yield level, (self.size >> (TILE_HEIGHT * (level + 1))) - 1, full
            if level + 1 == len(self.levels):
                self.levels.append([])
            self.levels[level + 1].append(root_of(full))
            self.levels[level] = []
            level += 1

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        carried: list[bytes] = []
        for level in self.levels:
            row = level + carried
            carried = [root_of(row)] if row else []
        return carried[0] if carried else EMPTY_ROOT


def tree_root(reader: NodeReader, size: int) -> bytes:
    """Return the root of the tree of a size."""
    return _range_root(reader, 0, size) if size else EMPTY_ROOT


def inclusion_proof(reader: NodeReader, index: int, size: int) -> list[bytes]:
    """Return PATH(index, D[0:size]) of RFC 6962, section 2.1.1, leaf's sibling first."""
    if not 0 <= index < size:
        msg = f"index {index} is outside a tree of size {size}"
        raise ValueError(msg)
    proof: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            proof.append(_range_root(reader, middle, high))
            high = middle
        else:
            proof.append(_range_root(reader, low, middle))
            low = middle
    proof.reverse()
    return proof


def consistency_proof(reader: NodeReader, first: int, second: int) -> list[bytes]:
    """Return PROOF(first, D[0:second]) of RFC 6962, section 2.1.2; empty when first is 0."""
    if not 0 <= first <= second:
        msg = f"size {first} is not a prefix of size {second}"
        raise ValueError(msg)
    if first in (0, second):
        return []
    proof: list[bytes] = []
    low, high = 0, second
    complete = True
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            proof.append(_range_root(reader, middle, high))
            high = middle
        else:
            proof.append(_range_root(reader, low, middle))
            low = middle
            complete = False
    if not complete:
        proof.append(_range_root(reader, low, high))
    proof.reverse()
    return proof


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> bool:
    """Say whether a proof shows a leaf at an index of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            computed = node_hash(computed, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and computed == root


def verify_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Say whether the first tree is a prefix of the second (RFC 9162, section 2.1.4.2)."""
    if not 0 <= first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not path:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old = node_hash(sibling, old)
            new = node_hash(sibling, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, sibling)
        position >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _split(count: int) -> int:
    """Return the largest power of two smaller than a count of at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(reader: NodeReader, low: int, high: int) -> bytes:
    """Return the hash over the leaves [low, high), a subtree that RFC 6962's recursion visits."""
    count = high - low
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return reader.node(level, low >> level)
    middle = low + _split(count)
    return node_hash(_range_root(reader, low, middle), _range_root(reader, middle, high))
