"""Whether a log is complete: each intent has its outcome, and no sequence has a hole."""

from services.audit.record import summarise
from services.audit.report import Report

_MAX_INTERRUPTED = 10_000


class _Sequence:
    """The numbers seen of one boot of one instance."""

    __slots__ = ("ahead", "through")

    def __init__(self) -> None:
        """Begin before the first."""
        self.through = 0
        self.ahead: set[int] = set()

    def take(self, number: int) -> bool:
        """Take a number; say whether it is new."""
        if number <= self.through or number in self.ahead:
            return False
        self.ahead.add(number)
        while self.through + 1 in self.ahead:
            self.through += 1
            self.ahead.discard(self.through)
        return True

    @property
    def holes(self) -> list[tuple[int, int]]:
        """The ranges of numbers that are missing, first and last."""
        holes = []
        expected = self.through + 1
        for number in sorted(self.ahead):
            if number > expected:
                holes.append((expected, number - 1))
            expected = number + 1
        return holes


class Completeness:
    """Reads the records of a log in order.

    Memory grows with the intents that are open, the holes and the boots, not with the log.
    """

    def __init__(self, report: Report) -> None:
        """Put what is found into a report."""
        self._report = report
        self._sequences: dict[tuple[str, int], _Sequence] = {}
        self._open: dict[tuple[str, int, int], int] = {}

    def take(self, index: int, entry: bytes) -> None:
        """Read the record at an index."""
        try:
            summary = summarise(entry)
        except ValueError:
            message = f"record {index} is not a record of a known schema"
            self._report.add("completeness", "unreadable", message, index=index)
            return
        name = (summary.id.instance, summary.id.epoch, summary.id.sequence)
        sequence = self._sequences.get(name[:2])
        if sequence is None:
            sequence = self._sequences[name[:2]] = _Sequence()
        if not sequence.take(summary.id.sequence):
            message = f"record {index} has the id {summary.id} of a record before it"
            self._report.add("completeness", "duplicated", message, index=index)
        elif summary.type == "intent":
            self._open[name] = index
        elif summary.type == "outcome":
            intent = summary.intent_id
            if intent is None or not self._close(intent.instance, intent.epoch, intent.sequence):
                message = f"record {index} is an outcome without an open intent before it"
                self._report.add("completeness", "unfounded", message, index=index)

    def finish(self) -> None:
        """Report holes and interrupted requests."""
        for (instance, epoch), sequence in self._sequences.items():
            for first, last in sequence.holes:
                which = f"record {first} is" if first == last else f"records {first} to {last} are"
                message = f"of {instance}, boot {epoch}, {which} missing from its sequence"
                self._report.add("completeness", "missing", message)
        self._report.interrupted_count = len(self._open)
        self._report.interrupted = sorted(
            (index, "/".join(map(str, name))) for name, index in self._open.items()
        )[:_MAX_INTERRUPTED]

    def _close(self, instance: str, epoch: int, sequence: int) -> bool:
        return self._open.pop((instance, epoch, sequence), None) is not None
