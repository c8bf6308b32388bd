"""Events on their way to the log: numbered, batched, and never dropped once numbered.

Each event gets the next number of this boot when it is taken. The numbers have no hole, so that an
auditor can tell a missing record; therefore an event that was numbered is sent until the log has
it, even when its caller has long been refused. Repeating is safe: the log knows records by id.

While the log does not answer, callers that wait are told so after `patience_s`, and new events are
refused before they get a number, except those that `must` follow an event already numbered. These
are bounded by the requests in flight.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from services.common.clock import Clock
from services.common.errors import DeadlineExceeded, ResourceExhausted, Unavailable, WeaverError
from services.gateway.events import Event, RecordId, RecordReference
from services.gateway.ports import AuditLog

MAX_BATCH = 256
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
RETRYABLE = (Unavailable, ResourceExhausted, DeadlineExceeded)

Waiting = tuple[Event, "asyncio.Future[RecordReference]", bool]


class Observer(Protocol):
    """Is told how the log answers."""

    def recorded(self, events: int) -> None:
        """Take note that so many events are durable."""
        ...

    def stalled(self, error: WeaverError | None) -> None:
        """Take note that the log does not answer, or (None) that it does again."""
        ...

    def rejected(self, error: Exception) -> None:
        """Take note that the log refuses an event for good, which leaves a hole."""
        ...


class Recorder:
    """Numbers events and sends them in batches, one batch under way at a time.

    Args:
        log: the audit log.
        observer: is told of stalls, for health and metrics.
        instance: the name of this process among the log's writers.
        clock: for the epoch.
        max_waiting: events waiting at most; more are refused unless they must follow.
        patience_s: how long a caller waits while the log does not answer; one that must follow
            waits as long as it likes.
    """

    def __init__(  # noqa: PLR0913 - the wiring of a queue
        self,
        log: AuditLog,
        observer: Observer,
        *,
        instance: str,
        clock: Clock,
        max_waiting: int = 10_000,
        patience_s: float = 2.0,
    ) -> None:
        """See the class."""
        self._log = log
        self._observer = observer
        self._instance = instance
        self._epoch = int(clock.time() * 1000)
        self._clock = clock
        self._max_waiting = max_waiting
        self._patience_s = patience_s
        self._sequence = 0
        self._pending: deque[Waiting] = deque()
        self._batch: list[Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._stall: WeaverError | None = None

    @property
    def waiting(self) -> int:
        """Events that are not known to be durable."""
        return len(self._pending) + len(self._batch)

    @property
    def stall(self) -> WeaverError | None:
        """Why the log does not answer; None while it does."""
        return self._stall

    def submit(self, event: Event, *, must: bool = False) -> "asyncio.Future[RecordReference]":
        """Give an event its id and send it; the future holds where it stands, once durable.

        The event is sent whatever becomes of the future. `must` is for an event that follows one
        already numbered: it is taken even while the log does not answer.

        Raises:
            Unavailable: the log does not answer, or too much is waiting.
        """
        if not must and (self._stall is not None or self.waiting >= self._max_waiting):
            raise _unavailable()
        self._sequence += 1
        event.id = RecordId(self._instance, self._epoch, self._sequence)
        future: asyncio.Future[RecordReference] = asyncio.get_running_loop().create_future()
        self._pending.append((event, future, must))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())
        return future

    async def close(self, timeout_s: float) -> int:
        """Send what is waiting, for so long at most; return how many events were left."""
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=timeout_s)
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
        return self.waiting

    async def _send_all(self) -> None:
        try:
            while self._pending:
                size = min(len(self._pending), MAX_BATCH)
                self._batch = [self._pending.popleft() for _ in range(size)]
                await self._send(self._batch)
                self._batch = []
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[Waiting]) -> None:
        """Send a batch until the log has it, or has refused it for good."""
        start = self._clock.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                references = await self._log.append([event for event, _, _ in batch])
            except RETRYABLE as error:
                self._note_stall(error, start)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - a defect or a bad event: find which one
                await self._isolate(batch, error)
                return
            else:
                self._note_answer()
                for (_, future, _), reference in zip(batch, references, strict=True):
                    if not future.done():
                        future.set_result(reference)
                self._observer.recorded(len(batch))
                return

    async def _isolate(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Send the events of a refused batch one by one, so that only the bad one fails."""
        if len(batch) > 1:
            for waiting in batch:
                await self._send([waiting])
            return
        _, future, _ = batch[0]
        self._observer.rejected(error)
        if not future.done():
            future.set_exception(error)
            future.exception()

    def _note_stall(self, error: WeaverError, start: float) -> None:
        if self._stall is None:
            self._stall = error
            self._observer.stalled(error)
        if self._clock.monotonic() - start < self._patience_s:
            return
        for _, future, must in (*self._batch, *self._pending):
            if not must and not future.done():
                future.set_exception(_unavailable())
                future.exception()

    def _note_answer(self) -> None:
        if self._stall is not None:
            self._stall = None
            self._observer.stalled(None)


def _unavailable() -> Unavailable:
    msg = "The audit log cannot record this call, so it was not made. Try again."
    return Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)
