"""The log: what is durable goes into the tree, and a signed checkpoint covers it.

A record is acknowledged by the group commit; its index is final then. A task of its own takes what
is durable into tiles and publishes one checkpoint over all of it, a moment after the first record
that waits, or at once when somebody waits for it. Disk and signatures have threads of their own;
the event loop never waits for either.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from services.audit.checkpoint import SignedCheckpoint
from services.audit.commit import GroupCommit, Limits
from services.audit.deduplication import Deduplication, Snapshot
from services.audit.integration import Integrator
from services.audit.ports import Entry, LogObserver, Store
from services.audit.wal import WriteAheadLog
from services.common.clock import Clock
from services.common.errors import Unavailable

_MAX_INTEGRATION = 16_384
_REMEMBER_EVERY = 50_000
_A_FEW = 1_024


class Log:
    """Appends records and publishes checkpoints.

    Args:
        wal: the write-ahead log, begun behind everything durable.
        integrator: the tree on disk.
        deduplication: what the newest records are.
        stores: what is kept beside the log; they follow the tree.
        accept: is called in a thread with each published checkpoint.
        remember: is called in a thread, now and then, with what deduplication must not forget.
        checkpoint: the newest published checkpoint.
        behind: the durable records that the tree does not have yet.
        clock: for durations.
        observer: is told what happens.
        limits: when to refuse.
    """

    def __init__(  # noqa: PLR0913 - the parts of a log
        self,
        *,
        wal: WriteAheadLog,
        integrator: Integrator,
        deduplication: Deduplication,
        stores: Sequence[Store],
        accept: Callable[[SignedCheckpoint], None],
        remember: Callable[[Snapshot], None],
        checkpoint: SignedCheckpoint | None,
        behind: Sequence[Entry],
        clock: Clock,
        observer: LogObserver,
        limits: Limits,
    ) -> None:
        """See the class."""
        self._commit = GroupCommit(
            wal=wal,
            deduplication=deduplication,
            clock=clock,
            observer=observer,
            limits=limits,
            on_durable=self._on_durable,
            ready=self._room,
        )
        self._integrator = integrator
        self._stores = stores
        self._accept = accept
        self._remember = remember
        self._deduplication = deduplication
        self._remembered = integrator.size
        self._observer = observer
        self._limits = limits
        self._clock = clock
        self._behind_since = clock.monotonic()
        self._integrated = integrator.size
        self._behind: deque[Entry] = deque(behind)
        self._behind_bytes = _size(behind)
        self._failed = False
        self._closing = False
        self._untrimmed = True
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self._progress = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "audit-tree")
        self._task: asyncio.Task[None] | None = None
        self.checkpoint = checkpoint

    @property
    def size(self) -> int:
        """How many records are durable."""
        return self._integrated + len(self._behind)

    @property
    def integrated(self) -> int:
        """How many records the published tree and the stores have."""
        return self._integrated

    def start(self) -> None:
        """Begin to take what is durable into the tree."""
        self._observer.grew(self.size)
        if self._behind:
            self._work.set()
            self._hurry.set()
        self._task = asyncio.create_task(self._integrate_forever())

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Make a batch durable, all or none, and return the index of each record.

        A record that is in the log with the same content gets its first index.

        Raises:
            AlreadyExists: an id is taken by other content.
            ResourceExhausted: too much waits.
            Unavailable: the disk refuses, or the log is closing.
        """
        if self._failed or self._closing:
            self._observer.refused("AUDIT_UNAVAILABLE", len(entries))
            msg = f"The audit log {'is closing' if self._closing else 'cannot write to its disk'}."
            retry_s = self._limits.retry_s
            raise Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=retry_s)
        return await self._commit.append(entries)

    def entry_behind(self, index: int) -> bytes | None:
        """Return the entry of a durable record that the tree does not have yet, else None."""
        position = index - self._integrated
        return self._behind[position].data if 0 <= position < len(self._behind) else None

    async def wait_integrated(self, size: int, timeout_s: float) -> bool:
        """Wait until the tree and the stores have so many records; say whether they do."""
        if size <= self._integrated:
            return True
        if size > self.size:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._integrated < size:
                    self._hurry.set()
                    await self._progress.wait()
        return self._integrated >= size

    async def amend(self, signed: SignedCheckpoint) -> None:
        """Publish the newest checkpoint with further lines; nothing when it is not the newest.

        Raises:
            OSError: the disk refuses.
        """
        if self._is_newest(signed) and not self._closing:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._amend, signed)

    async def close(self) -> None:
        """Refuse new records, finish what was accepted, publish a last checkpoint."""
        self._closing = True
        await self._commit.drain(self._limits.close_s)
        await self.wait_integrated(self.size, self._limits.close_s)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._trim(roll=True)
        await self._write_identities()
        self._thread.shutdown()
        await self._commit.close()

    async def trim_all(self) -> bool:
        """Take everything durable out of the write-ahead log; say whether nothing is left in it."""
        await self.wait_integrated(self.size, self._limits.close_s)
        await self._trim(roll=True)
        return not self._untrimmed

    def _on_durable(self, entries: Sequence[Entry]) -> None:
        if not self._behind:
            self._behind_since = self._clock.monotonic()
        self._behind.extend(entries)
        self._behind_bytes += _size(entries)
        self._untrimmed = True
        self._observer.grew(self.size)
        self._work.set()

    async def _room(self) -> None:
        """Wait while the tree is too far behind; not for one that cannot go on."""
        while not self._failed and (
            len(self._behind) > self._limits.max_behind
            or self._behind_bytes > self._limits.max_behind_bytes
            or (len(self._behind) > _A_FEW and self._lag_s() > self._limits.max_lag_s)
        ):
            self._hurry.set()
            await self._progress.wait()

    async def _integrate_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not await self._wait_for_work():
                await self._trim(roll=True)
                continue
            entries = list(itertools.islice(self._behind, _MAX_INTEGRATION))
            began = self._clock.monotonic()
            try:
                done = await loop.run_in_executor(self._thread, self._integrate, entries)
            except Exception as error:  # noqa: BLE001 - whatever it is: say so, and try again
                self._failed = True
                self._notify()
                self._observer.disk_failed("integrate", error)
                await asyncio.sleep(self._limits.retry_s)
                continue
            if self._failed:
                self._failed = False
                self._observer.disk_recovered("integrate")
            self._advance(done)
            self._behind_since = began
            await self._trim(roll=False)
            if self._integrated - self._remembered >= _REMEMBER_EVERY:
                await self._write_identities()

    def _lag_s(self) -> float:
        """Return about how long the oldest record that the tree lacks has been waiting."""
        return self._clock.monotonic() - self._behind_since

    def _advance(self, done: int) -> None:
        self._behind_bytes -= _size([self._behind.popleft() for _ in range(done)])
        self._integrated += done
        if not self._behind:
            self._work.clear()
        self._notify()

    def _notify(self) -> None:
        progress, self._progress = self._progress, asyncio.Event()
        progress.set()

    async def _wait_for_work(self) -> bool:
        """Wait for records, then a moment for more; False when the log was idle for long."""
        try:
            async with asyncio.timeout(self._limits.roll_s if self._untrimmed else None):
                await self._work.wait()
        except TimeoutError:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.checkpoint_interval_s):
                await self._hurry.wait()
        self._hurry.clear()
        return True

    def _integrate(self, entries: Sequence[Entry]) -> int:
        """Grow the tree, then the stores; runs in the tree's thread, and again if it fails.

        Returns:
            How many of the records both have.
        """
        first = self._integrated
        if self._integrator.size == first:
            published = self._integrator.integrate(entries)
            self.checkpoint = published
            self._observer.published(published.checkpoint.size, self._integrator.signing_seconds)
        if self.checkpoint is not None:
            self._accept(self.checkpoint)
        done = self._integrator.size - first
        for store in self._stores:
            store.apply(first, entries[:done])
        return done

    def _amend(self, signed: SignedCheckpoint) -> None:
        """Runs in the tree's thread, where no other checkpoint can come between."""
        if self._is_newest(signed):
            self._integrator.republish(signed)
            self.checkpoint = signed

    def _is_newest(self, signed: SignedCheckpoint) -> bool:
        return self.checkpoint is not None and self.checkpoint.note.text == signed.note.text

    async def _trim(self, *, roll: bool) -> None:
        """Remove what is no longer needed: superseded tiles, segments that the tree has."""
        try:
            await self._in_thread(self._integrator.clean)
            await self._commit.trim(self._integrated, roll=roll)
        except OSError as error:
            self._observer.disk_failed("trim", error)
            return
        self._untrimmed = not roll or bool(self._behind)

    async def _write_identities(self) -> None:
        """Write down which ids are old; without it a start only knows the newest records."""
        if self._integrated == self._remembered:
            return
        snapshot = self._deduplication.snapshot(self._integrated)
        try:
            await self._in_thread(lambda: self._remember(snapshot))
        except OSError as error:
            self._observer.disk_failed("trim", error)
            return
        self._remembered = snapshot.size

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _size(entries: Sequence[Entry]) -> int:
    return sum([len(entry.data) for entry in entries])
