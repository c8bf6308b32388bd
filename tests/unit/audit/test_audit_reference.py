"""The files on disk against a second, naive implementation of RFC 6962 and C2SP tlog-tiles."""

import base64
from hashlib import sha256
from pathlib import Path

import pytest

from services.audit.verification.offline import OfflineLog
from tests.fakes.biglog import log_of

SIZES = [1, 2, 255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, 65_792, 65_793]


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path_of(level: str, number: int, width: int) -> str:
    """The path of a tile, by the words of the specification."""
    groups = []
    rest = number
    while True:
        groups.append(f"{rest % 1000:03d}")
        rest //= 1000
        if not rest:
            break
    name = "/".join([*(f"x{group}" for group in reversed(groups[1:])), groups[0]])
    return f"tile/{level}/{name}" + ("" if width == 256 else f".p/{width}")


def read_bundle(data: bytes) -> list[bytes]:
    entries = []
    while data:
        length = int.from_bytes(data[:2], "big")
        entries.append(data[2 : 2 + length])
        data = data[2 + length :]
    return entries


@pytest.mark.parametrize("size", SIZES)
def test_every_file_is_the_one_of_a_second_implementation(tmp_path: Path, size: int) -> None:
    log = log_of(tmp_path, size)
    expected: set[str] = {"checkpoint"}
    entries: list[bytes] = []
    for number in range(-(-size // 256)):
        name = path_of("entries", number, min(256, size - number * 256))
        expected.add(name)
        entries += read_bundle((log / name).read_bytes())
    assert len(entries) == size
    leaves = [sha256(b"\x00" + entry).digest() for entry in entries]
    row, level = leaves, 0
    while row:
        for number in range(-(-len(row) // 256)):
            part = row[number * 256 : (number + 1) * 256]
            name = path_of(str(level), number, len(part))
            expected.add(name)
            assert (log / name).read_bytes() == b"".join(part), name
        row = [mth(row[i : i + 256]) for i in range(0, len(row) // 256 * 256, 256)]
        level += 1
    assert {str(p.relative_to(log)) for p in log.rglob("*") if p.is_file()} == expected
    origin, count, root = (log / "checkpoint").read_text().split("\n")[:3]
    assert (origin, count) == ("weaver.test/log", str(size))
    assert base64.b64decode(root) == mth(leaves)
    check_proofs(log, leaves)


def check_proofs(log: Path, leaves: list[bytes]) -> None:
    """Walk proofs up the recursion of RFC 6962, section 2.1.1, not as RFC 9162 verifies them."""
    offline = OfflineLog(log)
    size = len(leaves)
    for index in sorted({0, size // 2, size - 1, min(255, size - 1), min(256, size - 1)}):
        proof = list(offline.receipt(index).proof)
        assert climb(leaves[index], index, size, proof) == mth(leaves)
        assert proof == []


def climb(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes:
    """Return the root that a proof leads to; takes what it uses from the proof's end."""
    if size == 1:
        return leaf
    k = 1 << (size - 1).bit_length() - 1
    sibling = proof.pop()
    if index < k:
        return sha256(b"\x01" + climb(leaf, index, k, proof) + sibling).digest()
    return sha256(b"\x01" + sibling + climb(leaf, index - k, size - k, proof)).digest()
