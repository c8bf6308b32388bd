"""Verifies a log, with nothing but its files and public keys.

Every byte of every file is covered: entries by their leaf hashes, tiles by the hashes below and
above them, superseded partial tiles by the full ones, the checkpoint by its signatures and its one
spelling; a file that no log has is reported.

The service may be writing meanwhile. What lies behind the checkpoint is compared with itself and
counted; nothing vouches for it before the next checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from services.audit.archives.pruning import announced_end
from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.rotations import Rotations
from services.audit.keys.signatures import Keys, check_signatures
from services.audit.merkle import TILE_WIDTH
from services.audit.note import NoteError
from services.audit.verification.blame import Blame
from services.audit.verification.completeness import Completeness
from services.audit.verification.inventory import CHECKPOINT, LogDirectory, NotAFileError, Source
from services.audit.verification.report import Report
from services.audit.verification.treecheck import TreeCheck

LOOK_BACK = 64 * TILE_WIDTH
"""Records before an older checkpoint that are read again, to know what was going on then."""

Progress = Callable[[int, int], None]


def verify(  # noqa: PLR0913 - what a verification can be told
    log: Path | Source,
    keys: Keys,
    *,
    history: Sequence[SignedCheckpoint] = (),
    since: SignedCheckpoint | None = None,
    pruned: int = 0,
    progress: Progress = lambda _done, _size: None,
) -> Report:
    """Verify a log and return what is found.

    Args:
        log: its directory, or where else it is read from.
        keys: who may sign.
        history: older checkpoints, which the log must still contain.
        since: an older checkpoint to rest on: the log is proven to continue it, and only what is
            newer is read. When that fails all of it is read, to name the damage.
        pruned: the records below this one need not be kept; their hashes must. It is believed
            only where a record that is as it was signed announces it.
        progress: is told how many records of how many are done, now and then.
    """
    source = LogDirectory(log) if isinstance(log, Path) else log
    found = Verification(source, keys, history=history, since=since, pruned=pruned)
    for done in found.steps():
        progress(done, found.report.size)
    if since is not None and found.report.since and not found.report.passed("integrity"):
        again = [*history, since]
        return verify(source, keys, history=again, pruned=pruned, progress=progress)
    if pruned and not found.pruning_is_proven:
        return verify(source, keys, history=history, progress=progress)
    return found.report


class Verification:
    """One verification, in steps.

    Args:
        source: where the log is read from.
        keys: who may sign.
        history: older checkpoints, which the log must still contain.
        since: an older checkpoint to rest on.
        completeness: what knows the records before `since` and takes those behind it; without
            `since` all of them.
        pruned: the records below this one need not be kept.
    """

    def __init__(  # noqa: PLR0913 - what a verification can be told
        self,
        source: Source,
        keys: Keys,
        *,
        history: Sequence[SignedCheckpoint] = (),
        since: SignedCheckpoint | None = None,
        completeness: Completeness | None = None,
        pruned: int = 0,
    ) -> None:
        """See the class."""
        self._source = source
        self._keys = keys
        self._history = history if since is None else [*history, since]
        self._since = since
        self._completeness = completeness
        self._pruned = pruned
        self.report = Report()
        self.pruning_is_proven = True
        self._announced: list[tuple[int, int]] = []

    def steps(self) -> Iterator[int]:
        """Verify, a bundle a step; yield how many records are done.

        Raises:
            OSError: the source cannot be read.
        """
        report = self.report
        blame = Blame(report)
        signed = report.signed = self._read_checkpoint(blame)
        files = self._source.files(0 if signed is None else signed.checkpoint.size)
        for stranger in files.strangers:
            blame.damage("inserted", f"{stranger} does not belong to a log", path=stranger)
        if signed is None:
            return
        report.origin, report.size = signed.checkpoint.origin, signed.checkpoint.size
        check_signatures(signed, self._keys, report)
        for old in self._history:
            check_signatures(old, self._keys, report, newest=False)
            if old.checkpoint.origin != report.origin:
                blame.other_log(old.checkpoint.origin)
        if not files.listed and not any(line.state == "good" for line in report.signatures):
            blame.damage(
                "forked", "the log was not read: nobody who is trusted vouches for its size"
            )
            return
        older = [old.checkpoint for old in self._history]
        rotations = Rotations(report)
        completeness, start = self._begin(rotations)
        tree = TreeCheck(
            files, signed.checkpoint, older, blame, completeness, start=start, pruned=self._pruned
        )
        yield from tree.steps()
        if self._pruned and not start and self._completeness is None:
            self.pruning_is_proven = any(
                end >= self._pruned and not blame.knows(index, 1) for index, end in self._announced
            )
        rotations.compare(
            self._keys,
            # Whoever brings a completeness has read the rotations before.
            whole=self._completeness is None and not start and not report.pruned,
            newest_time=completeness.newest_time,
        )
        report.good_records = report.size - blame.bad_records(report.size)
        if report.passed("integrity") and report.passed("signatures"):
            report.checkpoints = 1 + len({old for old in older if old != signed.checkpoint})

    def _read_checkpoint(self, blame: Blame) -> SignedCheckpoint | None:
        try:
            return parse_signed_checkpoint(self._source.checkpoint())
        except FileNotFoundError:
            blame.damage("missing", "there is no checkpoint", path=CHECKPOINT)
        except NoteError as error:
            blame.damage("changed", f"{CHECKPOINT}: {error}", path=CHECKPOINT)
        except NotAFileError as error:
            blame.damage("changed", f"{CHECKPOINT}: {error.strerror}", path=CHECKPOINT)
        return None

    def _take(self, index: int, entry: bytes) -> None:
        """Take note of a record that announces a pruning."""
        if end := announced_end(entry):
            self._announced.append((index, end))

    def _begin(self, rotations: Rotations) -> tuple[Completeness, int]:
        """Return what reads the records, and the first of them."""
        listeners = {"administration": self._take, "key_rotation": rotations.take}
        rest = 0 if self._since is None else self._since.checkpoint.size
        if self._completeness is not None and not rest:
            self._completeness.continue_with(self.report, 0)
            return self._completeness, 0
        if not 0 < rest <= self.report.size:
            return Completeness(self.report, listeners=listeners), 0
        self.report.since = rest
        if self._completeness is not None:
            self._completeness.continue_with(self.report, rest)
            return self._completeness, rest // TILE_WIDTH * TILE_WIDTH
        start = max(0, rest - LOOK_BACK) // TILE_WIDTH * TILE_WIDTH
        completeness = Completeness(self.report, start=start, judged=rest, listeners=listeners)
        return completeness, start
