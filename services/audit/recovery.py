"""Finds the tree as it lies on disk when the service starts, and refuses a log that does not fit.

Only the right edge is read, so that a start takes the same time whatever the log's size; the whole
is what `weaver audit verify` reads. What was acknowledged but is not in the tree yet comes from the
write-ahead log afterwards.
"""

import os
from collections.abc import Sequence

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.layout import Layout
from services.audit.merkle import TILE_HEIGHT, TILE_WIDTH, RightEdge, leaf_hash
from services.audit.note import NoteError, VerifierKey
from services.audit.tiles import ENTRIES, Tile, TileDirectory, split_hashes
from services.common.files import replace_file

_ADVICE = "Run `weaver audit verify` on it; nothing will be written to it as it is."


class DamagedLog(Exception):  # noqa: N818 - named for what it is
    """The log on disk cannot be continued; the message is for operators."""


class Tree:
    """The tree as it lies on disk.

    Attributes:
        checkpoint: the newest; None when nothing was ever signed.
        edge: the right edge of its tree.
        bundle: the entries of its partial bundle.
    """

    def __init__(
        self, checkpoint: SignedCheckpoint | None, edge: RightEdge, bundle: Sequence[bytes]
    ) -> None:
        """See the class."""
        self.checkpoint = checkpoint
        self.edge = edge
        self.bundle = bundle


def open_tree(
    layout: Layout, tiles: TileDirectory, origin: str, keys: Sequence[VerifierKey]
) -> Tree:
    """Return the tree under the newest checkpoint.

    Raises:
        DamagedLog: the checkpoint is missing, damaged, older than one that was published before,
            another log's or nobody's, or the tiles do not have its root.
    """
    accepted = _read(layout.accepted)
    data = _read(layout.checkpoint)
    if data is None:
        if accepted is not None:
            msg = f"{layout.checkpoint} is missing, but a checkpoint was published. {_ADVICE}"
            raise DamagedLog(msg)
        return Tree(None, RightEdge(), [])
    signed = _parse(layout, data)
    checkpoint = signed.checkpoint
    if checkpoint.origin != origin:
        msg = (
            f"WEAVER_AUDIT_ORIGIN: the log in {layout.log} is {checkpoint.origin}, not {origin}. "
            f"A log keeps its origin."
        )
        raise DamagedLog(msg)
    if not signed_by(signed, keys):
        msg = f"{layout.checkpoint} is not signed by a key in {layout.keys}. {_ADVICE}"
        raise DamagedLog(msg)
    if accepted is not None:
        previous = _parse(layout, accepted).checkpoint
        if previous.size > checkpoint.size or (
            previous.size == checkpoint.size and previous.root != checkpoint.root
        ):
            msg = (
                f"{layout.checkpoint} has size {checkpoint.size}, but size {previous.size} was "
                f"published before: the log went back. {_ADVICE}"
            )
            raise DamagedLog(msg)
    edge, bundle = _read_edge(tiles, checkpoint.size)
    if edge.root() != checkpoint.root:
        msg = f"The tiles in {layout.log} do not have the checkpoint's root. {_ADVICE}"
        raise DamagedLog(msg)
    return Tree(signed, edge, bundle)


def signed_by(signed: SignedCheckpoint, keys: Sequence[VerifierKey]) -> bool:
    """Say whether a known key signed, and no known key's signature is bad."""
    known = {(key.name, key.key_id): key for key in keys}
    verdicts = [
        known[line.name, line.key_id].verifies(signed.note.text.encode(), line.signature)
        for line in signed.note.signatures
        if (line.name, line.key_id) in known
    ]
    return bool(verdicts) and all(verdicts)


def accept(layout: Layout, signed: SignedCheckpoint) -> None:
    """Remember a published checkpoint, so that the log cannot go back unnoticed."""
    replace_file(layout.accepted, str(signed.note).encode())


def _read_edge(tiles: TileDirectory, size: int) -> tuple[RightEdge, list[bytes]]:
    levels: list[list[bytes]] = []
    bundle: list[bytes] = []
    try:
        while (rows := size >> (TILE_HEIGHT * len(levels))) > 0:
            tile = Tile(len(levels), rows // TILE_WIDTH, rows % TILE_WIDTH)
            levels.append(split_hashes(tiles.read(tile)) if tile.width else [])
        if size % TILE_WIDTH:
            bundle = tiles.entries(size // TILE_WIDTH, size)
    except (FileNotFoundError, ValueError) as error:
        msg = f"A tile of the log is missing or damaged: {error}. {_ADVICE}"
        raise DamagedLog(msg) from None
    if bundle and [leaf_hash(entry) for entry in bundle] != levels[0]:
        msg = f"{tiles.path(Tile(ENTRIES, size // TILE_WIDTH, len(bundle)))} is changed. {_ADVICE}"
        raise DamagedLog(msg)
    return RightEdge(size, levels), bundle


def _parse(layout: Layout, data: bytes) -> SignedCheckpoint:
    try:
        return parse_signed_checkpoint(data)
    except NoteError as error:
        msg = f"{layout.checkpoint} is damaged: {error}. {_ADVICE}"
        raise DamagedLog(msg) from None


def _read(path: os.PathLike[str]) -> bytes | None:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - takes any path
            return file.read()
    except FileNotFoundError:
        return None
