"""Whether a log is complete: each intent has its outcome, and no sequence has a hole."""

from collections.abc import Callable, Mapping

from services.audit.record import summarise
from services.audit.verification.report import Damage, Report

_MAX_INTERRUPTED = 10_000

Take = Callable[[int, bytes], None]


class _Sequence:
    """The numbers seen of one boot of one instance.

    Args:
        floor: the number it is first known with; what came before is not judged.
    """

    __slots__ = ("ahead", "floor", "seam", "through")

    def __init__(self, floor: int) -> None:
        """Begin at a number."""
        self.floor = floor
        self.through = floor - 1
        self.seam = floor - 1
        self.ahead: set[int] = set()

    def take(self, number: int) -> bool:
        """Take a number; say whether it is new, or from before the first that is known."""
        if number < self.floor:
            return True
        if number <= self.through or number in self.ahead:
            return False
        self.ahead.add(number)
        while self.through + 1 in self.ahead:
            self.through += 1
            self.ahead.discard(self.through)
        return True

    def settle(self) -> None:
        """Judge no hole below the highest number seen so far."""
        self.seam = max(self.ahead, default=self.through)

    @property
    def holes(self) -> list[tuple[int, int]]:
        """The ranges of numbers that are missing, first and last."""
        holes = []
        expected = self.through + 1
        for number in sorted(self.ahead):
            if number > expected and number > self.seam:
                holes.append((max(expected, self.seam + 1), number - 1))
            expected = number + 1
        return holes


class Completeness:
    """Reads the records of a log in order.

    Memory grows with the intents that are open, the holes and the boots, not with the log.

    Args:
        report: where findings go.
        start: the first record that is read; what an earlier one would explain is not judged.
        judged: the first record to judge; those before it only tell what was going on then.
        listeners: who is given the records of a type, with their indexes.
    """

    def __init__(
        self,
        report: Report,
        *,
        start: int = 0,
        judged: int = 0,
        listeners: Mapping[str, Take] | None = None,
    ) -> None:
        """See the class."""
        self.report = report
        self._start = start
        self._judged = judged
        self._settled = (start + judged) // 2 if start else -1
        self._taken = 0
        self.newest_time = ""
        self._listeners = listeners or {}
        self._sequences: dict[tuple[str, int], _Sequence] = {}
        self._open: dict[tuple[str, int, int], int] = {}

    def take(self, index: int, entry: bytes) -> None:
        """Read the record at an index."""
        if index < self._taken:
            return
        try:
            summary = summarise(entry)
        except ValueError:
            message = f"record {index} is not a record of a known schema"
            self._add("unreadable", message, index)
            return
        self.newest_time = max(self.newest_time, summary.event_time)
        if 0 <= self._settled <= index:
            self._settle()
        name = (summary.id.instance, summary.id.epoch, summary.id.sequence)
        sequence = self._sequences.get(name[:2])
        if sequence is None:
            floor = name[2] if self._start else 1
            sequence = self._sequences[name[:2]] = _Sequence(floor)
        if not sequence.take(summary.id.sequence):
            message = f"record {index} has the id {summary.id} of a record before it"
            self._add("duplicated", message, index)
        elif summary.type == "intent":
            self._open[name] = index
        elif summary.type == "outcome":
            intent = summary.intent_id
            named = None if intent is None else (intent.instance, intent.epoch, intent.sequence)
            if named is None or (self._open.pop(named, None) is None and self._knows(named)):
                message = f"record {index} is an outcome without an open intent before it"
                self._add("unfounded", message, index)
        self._tell(index, entry, summary.type)

    def continue_with(self, report: Report, index: int) -> None:
        """Write what is found from now on into another report; the records before are known."""
        self.report = report
        self._taken = index

    def skip(self, first: int, count: int) -> None:
        """Leave out records that are not kept any more."""
        self._start = self._settled = self._judged = max(self._judged, first + count)

    def finish(self) -> None:
        """Report holes and interrupted requests."""
        for (instance, epoch), sequence in self._sequences.items():
            for first, last in sequence.holes:
                which = f"record {first} is" if first == last else f"records {first} to {last} are"
                message = f"of {instance}, boot {epoch}, {which} missing from its sequence"
                self.report.add("completeness", "missing", message)
        self.report.interrupted_count = len(self._open)
        self.report.interrupted = sorted(
            (index, "/".join(map(str, name))) for name, index in self._open.items()
        )[:_MAX_INTERRUPTED]

    def _add(self, kind: Damage, message: str, index: int) -> None:
        if index >= self._judged:
            self.report.add("completeness", kind, message, index=index)

    def _tell(self, index: int, entry: bytes, record_type: str) -> None:
        """Give a record to whoever listens for its type."""
        listener = self._listeners.get(record_type)
        if listener is not None:
            try:
                listener(index, entry)
            except ValueError:
                message = f"record {index} is a {record_type} that cannot be read"
                self._add("unreadable", message, index)

    def _knows(self, name: tuple[str, int, int]) -> bool:
        """Say whether a record of this name would have been read."""
        if not self._start:
            return True
        sequence = self._sequences.get(name[:2])
        return sequence is not None and name[2] > sequence.seam

    def _settle(self) -> None:
        for sequence in self._sequences.values():
            sequence.settle()
        self._settled = -1
