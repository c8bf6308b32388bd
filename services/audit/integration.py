"""Takes durable records into the tree: entry bundles, tiles, then the signed checkpoint over them.

Everything that a checkpoint covers is durable before the checkpoint is published. What fails can be
tried again: the state in memory changes only when all of it is done, and a tile that is written
twice gets the same bytes. Partial tiles that full ones supersede are removed afterwards, by
`clean`: a disk that refuses that takes nothing from the checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from services.audit.checkpoint import Checkpoint, SignedCheckpoint
from services.audit.merkle import TILE_HEIGHT, TILE_WIDTH, RightEdge
from services.audit.note import NoteSigner, sign_note
from services.audit.ports import Entry
from services.audit.tiles import ENTRIES, Tile, TileDirectory, pack_entries


class Integrator:
    """Grows the tree on disk; used from one thread at a time.

    Args:
        origin: the log's name.
        tiles: where tiles go.
        checkpoint_path: where the checkpoint goes.
        signers: returns who signs the next checkpoint.
        edge: the right edge of the tree as it lies on disk.
        bundle: the entries of its partial bundle.
    """

    def __init__(  # noqa: PLR0913 - what the tree is made of
        self,
        *,
        origin: str,
        tiles: TileDirectory,
        checkpoint_path: Path,
        signers: Callable[[], Sequence[NoteSigner]],
        edge: RightEdge,
        bundle: Sequence[bytes],
    ) -> None:
        """See the class."""
        self._origin = origin
        self._tiles = tiles
        self._checkpoint_path = checkpoint_path
        self._signers = signers
        self._edge = edge
        self._bundle = list(bundle)
        self._partials = {
            (level, edge.size >> (TILE_HEIGHT * (max(level, 0) + 1)))
            for level in range(ENTRIES, len(edge.levels))
        }
        self._superseded: list[Tile] = []
        self.signing_seconds = 0.0

    @property
    def size(self) -> int:
        """How many records the tree on disk holds."""
        return self._edge.size

    def integrate(self, entries: Sequence[Entry]) -> SignedCheckpoint:
        """Add records, and publish a checkpoint that covers them.

        Raises:
            OSError: the disk refuses; nothing changed that counts, try again with the same records.
        """
        before = self._edge.size
        edge = RightEdge(before, self._edge.levels)
        bundle, filled = self._write_entries(entries)
        for level, number, hashes in edge.append([entry.leaf for entry in entries]):
            tile = Tile(level, number)
            self._tiles.write(tile, b"".join(hashes))
            filled.append(tile)
        for level, hashes in enumerate(edge.levels):
            shift = TILE_HEIGHT * level
            if hashes and edge.size >> shift != before >> shift:
                number = edge.size >> (shift + TILE_HEIGHT)
                self._partials.add((level, number))
                self._tiles.write(Tile(level, number, len(hashes)), b"".join(hashes))
        self._tiles.sync()
        published = self._publish(Checkpoint(self._origin, edge.size, edge.root()))
        self._edge = edge
        self._bundle = bundle
        for tile in filled:
            if (tile.level, tile.number) in self._partials:
                self._superseded.append(tile)
                self._partials.discard((tile.level, tile.number))
        return published

    def clean(self) -> None:
        """Remove the partial tiles that full ones supersede.

        Raises:
            OSError: the disk refuses; what is left is removed the next time.
        """
        while self._superseded:
            self._tiles.remove_partials(self._superseded[-1])
            self._superseded.pop()

    def republish(self, signed: SignedCheckpoint) -> None:
        """Publish the newest checkpoint again, with further signature lines.

        Raises:
            OSError: the disk refuses.
        """
        self._tiles.write_file(self._checkpoint_path, str(signed.note).encode())
        self._tiles.sync()

    def _write_entries(self, entries: Sequence[Entry]) -> tuple[list[bytes], list[Tile]]:
        number = self._edge.size // TILE_WIDTH
        bundle = self._bundle + [entry.data for entry in entries]
        filled: list[Tile] = []
        for start in range(0, len(bundle), TILE_WIDTH):
            part = bundle[start : start + TILE_WIDTH]
            tile = Tile(ENTRIES, number, len(part))
            self._tiles.write(tile, pack_entries(part))
            if len(part) < TILE_WIDTH:
                self._partials.add((ENTRIES, number))
            else:
                filled.append(tile)
                number += 1
        return bundle[len(filled) * TILE_WIDTH :], filled

    def _publish(self, checkpoint: Checkpoint) -> SignedCheckpoint:
        started = time.perf_counter()
        note = sign_note(checkpoint.text, self._signers())
        self.signing_seconds = time.perf_counter() - started
        self._tiles.write_file(self._checkpoint_path, str(note).encode())
        self._tiles.sync()
        return SignedCheckpoint(checkpoint, note)
