"""Verifies the log that this service writes, again and again, as an auditor would.

What is new is verified every few seconds. Beside that the whole log is read again in passes, each
after a pause as long as the last one took, so that a change to an old file is found. A thread of
its own does it, at the lowest priority and with a small share of one processor; it reads what lies
on the disk and nothing of what the service holds in memory, and no append ever waits for it.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Protocol

from services.audit.checkpoint import SignedCheckpoint
from services.audit.keys.signatures import Keys
from services.audit.verification.completeness import Completeness
from services.audit.verification.inventory import LogDirectory
from services.audit.verification.report import Finding, Report
from services.audit.verification.sized_files import LogTail
from services.audit.verification.verifier import Verification
from services.common.clock import Clock

_LOWEST_PRIORITY = 19
_LONGEST_PAUSE_S = 5.0
_HOLE_GRACE_S = 120.0


class MonitorObserver(Protocol):
    """Who is told what the monitor finds; called from its thread."""

    def verified(self, report: Report, *, whole: bool) -> None:
        """Nothing speaks against the log: what is new of it, or all of it."""
        ...

    def verification_failed(self, report: Report, findings: Sequence[Finding]) -> None:
        """The log is damaged, or incomplete in a way that was not known yet."""
        ...

    def verification_broke_off(self, error: Exception) -> None:
        """The log could not be read."""
        ...


class Monitor:
    """The thread that verifies a log.

    Args:
        log: the log's directory.
        keys: returns who may sign now.
        history: returns checkpoints that were published, asked before the log is read: many if
            the whole log is about to be read, else the newest.
        observer: is told what comes of it.
        clock: for pauses.
        interval_s: how often what is new is verified, and the least pause between passes.
        share: of one processor, at most; over 0, at most 1.
        pruned: returns below which record the log need not keep texts.
    """

    def __init__(  # noqa: PLR0913 - what it needs of its surroundings
        self,
        log: Path,
        *,
        keys: Callable[[], Keys],
        history: Callable[[bool], Sequence[SignedCheckpoint]],
        observer: MonitorObserver,
        clock: Clock,
        interval_s: float,
        share: float,
        pruned: Callable[[], int] = lambda: 0,
    ) -> None:
        """See the class."""
        self._whole_source = LogDirectory(log)
        self._tail_source = LogTail(log)
        self._keys = keys
        self._history = history
        self._observer = observer
        self._clock = clock
        self._interval_s = interval_s
        self._share = share
        self._pruned = pruned
        self._completeness = Completeness(Report())
        self._verified: SignedCheckpoint | None = None
        self._known: set[str] = set()
        self._holes: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="audit-monitor", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; waits for the bundle that is being read."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Where threads have no priority.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST_PRIORITY)
        while not self._stop.is_set():
            started = self._clock.monotonic()
            try:
                self._pass()
            except Exception as error:  # noqa: BLE001 - it must go on, whatever a disk says
                self._verified = None
                self._observer.verification_broke_off(error)
            took_s = self._clock.monotonic() - started
            self._rest(started + took_s + max(self._interval_s, took_s))

    def _pass(self) -> None:
        """Verify the whole log, and meanwhile what is new."""
        first = self._verified is None
        if first:
            self._completeness = Completeness(Report())
        pruned = self._pruned()
        whole = Verification(
            self._whole_source,
            self._keys(),
            history=self._history(True),  # noqa: FBT003 - the whole log?
            completeness=self._completeness if first else _Nothing(),
            pruned=pruned,
        )
        next_tail = self._clock.monotonic() + self._interval_s
        for _ in self._gently(whole):
            if self._verified is not None and self._clock.monotonic() >= next_tail:
                self._tail()
                next_tail = self._clock.monotonic() + self._interval_s
        if whole.report.findings and self._pruned() != pruned:
            return  # Bundles were pruned meanwhile, and missed: the next pass judges.
        if not self._stop.is_set():
            self._judge(whole.report, whole=True, complete=first)

    def _rest(self, until: float) -> None:
        """Wait for the next pass, and verify what is new on time."""
        while (left := until - self._clock.monotonic()) > 0:
            if self._stop.wait(min(left, self._interval_s)):
                return
            if self._verified is None:
                continue
            try:
                self._tail()
            except Exception as error:  # noqa: BLE001 - it must go on, whatever a disk says
                self._verified = None
                self._observer.verification_broke_off(error)

    def _tail(self) -> None:
        """Verify what came since the last time."""
        newer = Verification(
            self._tail_source,
            self._keys(),
            history=self._history(False),  # noqa: FBT003 - the whole log?
            since=self._verified,
            completeness=self._completeness,
        )
        for _ in self._gently(newer):
            pass
        if not self._stop.is_set():
            self._judge(newer.report, whole=False, complete=True)

    def _gently(self, verification: Verification) -> Iterator[None]:
        """Take the steps of a verification, with a pause after each."""
        started = self._clock.monotonic()
        for _ in verification.steps():
            worked_s = self._clock.monotonic() - started
            yield
            if self._stop.wait(min(worked_s * (1 / self._share - 1), _LONGEST_PAUSE_S)):
                return
            started = self._clock.monotonic()

    def _judge(self, report: Report, *, whole: bool, complete: bool) -> None:
        damage = [found for found in report.findings if found.verdict != "completeness"]
        news = [*self._settled(report)] if complete else []
        if damage or news:
            self._observer.verification_failed(report, [*damage, *news])
        if damage:
            self._verified = None
            return
        if complete:
            self._verified = report.signed
        self._observer.verified(report, whole=whole)

    def _settled(self, report: Report) -> Iterator[Finding]:
        """Yield what is incomplete and was not told yet.

        A hole may be a record that is still on its way; it is told when it stays.
        """
        now = self._clock.monotonic()
        holes: dict[str, float] = {}
        for found in report.findings:
            if found.verdict != "completeness" or found.message in self._known:
                continue
            if found.kind == "missing":
                holes[found.message] = since = self._holes.get(found.message, now)
                if now - since < _HOLE_GRACE_S:
                    continue
            self._known.add(found.message)
            yield found
        self._holes = holes


class _Nothing(Completeness):
    """Takes no record: the tail has taken them."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__(Report())

    def take(self, index: int, entry: bytes) -> None:
        """Leave the record alone."""

    def finish(self) -> None:
        """Say nothing."""
