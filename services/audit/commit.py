"""Group commit: makes batches durable in the write-ahead log, many with one synchronisation.

While one group is being synchronised the next gathers; an idle log sends at once. An index is
promised when a group is formed and final when the group is durable; a group that fails takes its
promises back.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.audit.deduplication import Deduplication
from services.audit.ports import Entry, LogObserver
from services.audit.wal import Item, WriteAheadLog
from services.audit.worker import Worker
from services.common.clock import Clock
from services.common.errors import AlreadyExists, ResourceExhausted, Unavailable

_MAX_GROUP = 4_096
_MAX_GROUP_BYTES = 8 << 20
_QUEUE_FULL_RETRY_S = 0.1


@dataclass(frozen=True)
class Limits:
    """What the log holds back, and when it refuses.

    Attributes:
        max_pending: records that wait to become durable, at most.
        max_pending_bytes: and their size, at most; a batch alone may be larger.
        max_behind: durable records that wait to enter the tree; beyond it commits wait for the
            tree, which bounds its lag and the memory that it takes.
        max_behind_bytes: and their size.
        max_lag_s: how late the tree may be with more than a few records before commits wait for it.
        checkpoint_interval_s: how long the first record waits for its checkpoint.
        retry_s: how often a disk that refuses is tried again.
        roll_s: how long records may stay in the write-ahead log once the tree has them.
        close_s: how long the end waits for the tree; what it misses, the next start integrates.
        stall_s: how long the disk may take for one group before the log counts as unhealthy.
    """

    max_pending: int = 16_384
    max_pending_bytes: int = 64 << 20
    max_behind: int = 8_192
    max_behind_bytes: int = 32 << 20
    max_lag_s: float = 0.5
    checkpoint_interval_s: float = 0.25
    retry_s: float = 0.5
    roll_s: float = 60.0
    close_s: float = 8.0
    stall_s: float = 5.0


class _Batch(NamedTuple):
    entries: Sequence[Entry]
    future: asyncio.Future[list[int]]
    arrived: float
    size: int


class _Group(NamedTuple):
    """Batches under way to the disk, and the indexes that each is promised."""

    first: int
    entries: list[Entry]
    batches: list[tuple[_Batch, list[int]]]


class GroupCommit:
    """Appends batches to a write-ahead log; used from one event loop.

    Args:
        wal: begun behind everything durable.
        deduplication: what the newest records are.
        clock: for durations.
        observer: is told what happens.
        limits: when to refuse.
        on_durable: takes the records that have become durable, in order.
        ready: waits until there is room for more.
    """

    def __init__(  # noqa: PLR0913 - its neighbours
        self,
        *,
        wal: WriteAheadLog,
        deduplication: Deduplication,
        clock: Clock,
        observer: LogObserver,
        limits: Limits,
        on_durable: Callable[[Sequence[Entry]], None],
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        """See the class."""
        self._wal = wal
        self._deduplication = deduplication
        self._clock = clock
        self._observer = observer
        self._limits = limits
        self._on_durable = on_durable
        self._ready = ready
        self._durable = wal.durable
        self._pending: deque[_Batch] = deque()
        self._pending_records = 0
        self._pending_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._worker = Worker("audit-commit")
        self.failed = False

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Make a batch durable, all or none, and return the index of each record.

        Raises:
            AlreadyExists: an id is taken by other content.
            ResourceExhausted: too much waits.
            Unavailable: the disk refuses.
        """
        if self.failed:
            self._observer.refused("AUDIT_UNAVAILABLE", len(entries))
            raise self._unavailable()
        size = sum([len(entry.data) for entry in entries])
        if self._pending and (
            self._pending_records + len(entries) > self._limits.max_pending
            or self._pending_bytes + size > self._limits.max_pending_bytes
        ):
            self._observer.refused("QUEUE_FULL", len(entries))
            msg = "Too many records are waiting to become durable; try again."
            raise ResourceExhausted(msg, reason="QUEUE_FULL", retry_after_s=_QUEUE_FULL_RETRY_S)
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._pending.append(_Batch(entries, future, self._clock.monotonic(), size))
        self._pending_records += len(entries)
        self._pending_bytes += size
        self._observer.queued(self._pending_records)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await future

    async def trim(self, index: int, *, roll: bool) -> None:
        """Remove what lies before an index from the write-ahead log.

        Raises:
            OSError: the disk refuses; it can be left to the next time.
        """
        await self._in_thread(lambda: self._wal.trim(index, roll=roll))

    async def drain(self, timeout_s: float) -> None:
        """Wait until nothing is under way, so long at most."""
        if self._running is not None:
            await asyncio.wait([self._running], timeout=timeout_s)

    async def close(self) -> None:
        """End the thread and close the write-ahead log."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        self._worker.close()
        self._wal.close()

    async def _run(self) -> None:
        """Send group after group, until nothing waits."""
        try:
            while self._pending:
                await self._ready()
                group = self._gather()
                try:
                    if group.entries:
                        await self._write(_frames(group))
                except Exception as error:  # noqa: BLE001 - whatever it is, nothing is durable
                    self._fail(group, error)
                    await self._recover()
                else:
                    self._acknowledge(group)
        finally:
            self._running = None

    async def _write(self, frames: list[list[Item]]) -> None:
        """Write a group; a disk that does not even answer makes the log unhealthy meanwhile."""
        late = TimeoutError(f"no answer within {self._limits.stall_s:g} s")
        alarm = asyncio.get_running_loop().call_later(
            self._limits.stall_s, self._observer.disk_failed, "stall", late
        )
        try:
            await self._in_thread(lambda: self._wal.commit(frames))
        finally:
            alarm.cancel()
            if alarm.when() <= asyncio.get_running_loop().time():
                self._observer.disk_recovered("stall")

    def _gather(self) -> _Group:
        group = _Group(self._durable, [], [])
        size = 0
        while self._pending and len(group.entries) < _MAX_GROUP and size < _MAX_GROUP_BYTES:
            batch = self._pending.popleft()
            self._pending_records -= len(batch.entries)
            self._pending_bytes -= batch.size
            size += batch.size
            start = len(group.entries)
            try:
                group.batches.append(
                    (batch, [self._place(group, entry) for entry in batch.entries])
                )
            except AlreadyExists as error:
                self._deduplication.take_back(group.first + start)
                del group.entries[start:]
                self._observer.refused(error.reason, len(batch.entries))
                if not batch.future.done():
                    batch.future.set_exception(error)
        self._observer.queued(self._pending_records)
        return group

    def _place(self, group: _Group, entry: Entry) -> int:
        index = self._deduplication.find(entry.id, entry.leaf)
        if index is None:
            index = group.first + len(group.entries)
            self._deduplication.add(entry.id, index, entry.leaf)
            group.entries.append(entry)
        return index

    def _acknowledge(self, group: _Group) -> None:
        if group.entries:
            self._durable += len(group.entries)
            self._deduplication.settle()
            self._on_durable(group.entries)
        now = self._clock.monotonic()
        for batch, indexes in group.batches:
            self._observer.appended(len(indexes), now - batch.arrived)
            if not batch.future.done():
                batch.future.set_result(indexes)

    def _fail(self, group: _Group, error: Exception) -> None:
        """Tell everyone who waits that nothing of theirs is durable."""
        self._deduplication.take_back(group.first)
        self.failed = True
        self._observer.disk_failed("commit", error)
        waiting = [batch for batch, _ in group.batches] + list(self._pending)
        self._pending.clear()
        self._pending_records = self._pending_bytes = 0
        self._observer.queued(0)
        for batch in waiting:
            self._observer.refused("AUDIT_UNAVAILABLE", len(batch.entries))
            if not batch.future.done():
                batch.future.set_exception(self._unavailable())

    async def _recover(self) -> None:
        while self.failed:
            await asyncio.sleep(self._limits.retry_s)
            try:
                await self._in_thread(self._wal.recover)
            except Exception as error:  # noqa: BLE001 - as long as it lasts, nothing is taken
                self._observer.disk_failed("commit", error)
            else:
                self.failed = False
                self._observer.disk_recovered("commit")

    def _unavailable(self) -> Unavailable:
        msg = "The audit log cannot write to its disk."
        retry_s = self._limits.retry_s
        return Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=retry_s)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await self._worker.run(work)


def _frames(group: _Group) -> list[list[Item]]:
    """Return the new records of each batch: a batch is one frame, so it survives whole or not."""
    frames: list[list[Item]] = []
    taken = 0
    for _, indexes in group.batches:
        end = max((index + 1 - group.first for index in indexes), default=0)
        if end > taken:
            frames.append([(e.data, e.commitment_key) for e in group.entries[taken:end]])
            taken = end
    return frames
