"""Puts a name and a place to damage, once what was signed is known."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from services.audit.merkle import TILE_HEIGHT, TILE_WIDTH
from services.audit.tiles import ENTRIES, Tile
from services.audit.verification.inventory import CHECKPOINT, bundle_of, file_name
from services.audit.verification.report import Damage, Report

_MAX_EXCHANGED = 1_000


class Blame:
    """Writes findings about the integrity of a log into a report.

    Attributes:
        report: where findings go.
    """

    def __init__(self, report: Report) -> None:
        """See the class."""
        self.report = report
        self._bad: list[range] = []
        self._exchanged: list[tuple[int, Counter[bytes], Counter[bytes]]] = []
        self._agreed = 0

    def damage(
        self, kind: Damage, message: str, *, index: int | None = None, path: str | None = None
    ) -> None:
        """Report damage."""
        self.report.add("integrity", kind, message, index=index, path=path)

    def bad_records(self, size: int) -> int:
        """Return how many of the first records are known to be bad."""
        count = through = 0
        for span in sorted(self._bad, key=lambda span: span.start):
            start, end = max(span.start, through), min(span.stop, size)
            count += max(0, end - start)
            through = max(through, end)
        return count

    def knows(self, first: int, width: int) -> bool:
        """Say whether a bad record among these was reported."""
        return any(span.start < first + width and first < span.stop for span in self._bad)

    def cut(self, first: int, size: int) -> None:
        """Report that nothing at all is there from a record on."""
        self._bad.append(range(first, size))
        name = bundle_of(first)
        message = f"{name} and all that follows is missing: records {first} to {size - 1}"
        self.damage("truncated", message, index=first, path=name)

    def form(self, tile: Tile, problem: str) -> None:
        """Report a file whose form is wrong; nothing when there is no problem."""
        if problem:
            index = tile.number << (TILE_HEIGHT * (max(tile.level, 0) + 1))
            name = file_name(tile)
            self.damage("changed", f"{name} {problem}", index=index, path=name)

    def appended(self, bundle: Tile) -> None:
        """Report records behind the last one that a bundle's name has room for."""
        index = bundle.number * TILE_WIDTH + bundle.width
        name = file_name(bundle)
        message = f"{name} has more records than its name says: record {index} in it is inserted"
        self.damage("inserted", message, index=index, path=name)

    def tile(self, tile: Tile, signed: Sequence[bytes], found: Sequence[bytes]) -> None:
        """Report a tile that does not have the hashes of what lies below it."""
        name = file_name(tile)
        offset = _difference(signed, found[: len(signed)])
        index = (tile.number * TILE_WIDTH + offset) << (TILE_HEIGHT * tile.level)
        if offset == len(found) < len(signed):
            self.damage("missing", f"{name} is missing", index=index, path=name)
        elif offset < len(signed):
            message = (
                f"{name} is changed: its hash {offset}, of record {index}, is not the right one"
            )
            self.damage("changed", message, index=index, path=name)

    def entries(
        self,
        number: int,
        width: int,
        found: Sequence[bytes],
        signed: Sequence[bytes],
        *,
        last: bool,
    ) -> None:
        """Report entries that are not those that were signed.

        Args:
            number: of the bundle.
            width: how many records it has under the checkpoint.
            found: the leaf hashes of the entries here.
            signed: the hashes of the tile.
            last: whether no bundle follows.
        """
        first = number * TILE_WIDTH
        name = file_name(Tile(ENTRIES, number, width))
        if not found:
            self._bad.append(range(first, first + width))
            kind: Damage = "truncated" if last else "missing"
            message = f"{name} is missing or cannot be read"
            self.damage(kind, message, index=first, path=name)
            return
        here, there = list(found[:width]), list(signed[:width])
        if len(there) < width and here == there and last:
            # The end of an older, shorter log in the place of this one's.
            end = first + len(here)
            self._bad.append(range(end, first + width))
            message = f"{name} ends before record {end}: the end is gone"
            self.damage("truncated", message, index=end, path=name)
            return
        if len(there) < width:
            there = here[:]
        bad = [i for i in range(width) if here[i : i + 1] != there[i : i + 1]]
        self._bad.extend(range(first + i, first + i + 1) for i in bad)
        kind = _kind(list(found), there, last=last)
        index = first + (bad[0] if bad else min(width, len(found) - 1))
        if kind == "changed" and len(self._exchanged) < _MAX_EXCHANGED:
            lost, gained = Counter(there) - Counter(found), Counter(found) - Counter(there)
            self._exchanged.append((len(self.report.findings), gained, lost))
        self.damage(kind, f"record {index} in {name} is {kind}", index=index, path=name)

    def subtrees(self, tile: Tile, found: Sequence[bytes], signed: Sequence[bytes]) -> None:
        """Report records that were replaced together with the tiles above them."""
        shift = TILE_HEIGHT * tile.level
        for offset, (here, there) in enumerate(zip(found, signed, strict=True)):
            if here != there:
                index = (tile.number * TILE_WIDTH + offset) << shift
                end = index + (1 << shift)
                if self.knows(index, end - index):
                    continue
                self._bad.append(range(index, end))
                message = f"records {index} to {end - 1} were replaced together with their tiles"
                if len(self._exchanged) < _MAX_EXCHANGED:
                    found_at = len(self.report.findings)
                    self._exchanged.append((found_at, Counter([here]), Counter([there])))
                self.damage("changed", message, index=index, path=bundle_of(index))

    def partial(self, tile: Tile, found: Sequence[bytes], signed: Sequence[bytes]) -> None:
        """Report a superseded partial tile that the wider one does not begin with."""
        name = file_name(tile)
        offset = _difference(signed[: tile.width], found)
        index = (tile.number * TILE_WIDTH + offset) << (TILE_HEIGHT * max(tile.level, 0))
        message = f"{name} is changed: it differs from the wider tile at record {index}"
        self.damage("changed", message, index=index, path=name)

    def beyond(self, tile: Tile) -> None:
        """Report files behind the checkpoint that contradict each other."""
        name = file_name(tile)
        message = f"{name} does not fit what lies below it, behind the checkpoint"
        self.damage("changed", message, path=name)

    def agreed(self, size: int) -> None:
        """Take note that the tree of a size is the one that was signed."""
        self._agreed = max(self._agreed, size)

    def forked(self, size: int) -> None:
        """Report that the tree of a size is not the one that was signed."""
        if self.report.passed("integrity"):
            message = f"the tree of the first {size} records is not the one that was signed"
            if 0 < self._agreed < size:
                message += f"; the first {self._agreed} are as they were signed"
        else:
            message = f"with that, the root that was signed for {size} records is not reached"
        self.damage("forked", message)

    def rolled_back(self, published: int, size: int) -> None:
        """Report that a checkpoint of a greater size was published before."""
        message = f"a checkpoint of size {published} was published; this log is shorter"
        self.damage("rolled back", message, index=size, path=CHECKPOINT)

    def other_log(self, origin: str) -> None:
        """Report an older checkpoint that is another log's."""
        self.damage("forked", f"a checkpoint that was kept is of another log, {origin}")

    def inserted(self, tile: Tile) -> None:
        """Report a file with a tile's name that no log of this size has."""
        name = file_name(tile)
        self.damage("inserted", f"{name} is no part of the tree", path=name)

    def finish(self) -> None:
        """Give records that changed places between bundles the name of that."""
        gained = sum((one for _, one, _ in self._exchanged), Counter[bytes]())
        lost = sum((one for _, _, one in self._exchanged), Counter[bytes]())
        for position, here, gone in self._exchanged:
            if position < len(self.report.findings) and here <= lost and gone <= gained:
                finding = self.report.findings[position]
                message = finding.message.replace("is changed", "is reordered")
                message = message.replace("were replaced", "changed places with others")
                self.report.findings[position] = replace(finding, kind="reordered", message=message)


def _difference(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return the first position at which two sequences differ."""
    for position, (here, there) in enumerate(zip(one, other, strict=False)):
        if here != there:
            return position
    return min(len(one), len(other))


def _kind(found: list[bytes], signed: list[bytes], *, last: bool) -> Damage:
    extra = Counter(found) - Counter(signed)
    lacking = Counter(signed) - Counter(found)
    if extra and lacking:
        return _shift(found, signed) or "changed"
    if extra:
        return "inserted"
    if lacking:
        cut = last and found == signed[: len(found)]
        return "truncated" if cut else "missing"
    return "reordered"


def _shift(found: list[bytes], signed: list[bytes]) -> Damage | None:
    """Say whether records were taken out or put in, and all behind them moved up or down.

    A bundle that was filled up again from the next one has the right number of records.
    """
    at = _difference(found, signed)
    length = len(signed)
    for by in range(1, length - at):
        if found[at : length - by] == signed[at + by :]:
            return "missing"
        if found[at + by : length] == signed[at : length - by]:
            return "inserted"
    return None
