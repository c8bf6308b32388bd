"""Events on their way to the log: numbered, batched, and never dropped once numbered.

Each event gets the next number of this boot when it is taken. The numbers have no hole, so that an
auditor can tell a missing record; therefore an event that was numbered is sent until the log has
it, even when its caller has long been refused. Repeating is safe: the log knows records by id. An
event that the log refuses for good is replaced, under its number, by one with its bare facts.

While the log does not answer, callers wait for `patience_s`, as for one that restarts; then they
are told so, and new events are refused before they get a number, except those that `must` follow
an event already numbered. These are bounded by the requests in flight.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import structlog

from services.common.batching import Company, Gathering
from services.common.clock import Clock
from services.common.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
    WeaverError,
)
from services.gateway.events import Event, RecordId, RecordReference
from services.gateway.ports import AuditLog

MAX_BATCH = 256
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5
GATHERING_S = 0.006
# What the log says of an event itself; everything else is the log's own trouble, which passes.
FINAL = (InvalidArgument, AlreadyExists, PermissionDenied)

_log = structlog.get_logger()
_Told = TypeVar("_Told")

Waiting = tuple[Event, "asyncio.Future[RecordReference]", bool]


class Observer(Protocol):
    """Is told how the log answers."""

    def recorded(self, events: int) -> None:
        """Take note that so many events are durable."""
        ...

    def stalled(self, error: WeaverError | None) -> None:
        """Take note that the log does not answer, or (None) that it does again."""
        ...

    def replaced(self, error: WeaverError) -> None:
        """Take note that the log refuses an event for good, and holds its bare facts instead."""
        ...

    def rejected(self, error: WeaverError) -> None:
        """Take note that the log refuses even an event's bare facts, which leaves a hole."""
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
        company: who is about to record; a batch waits a moment for them.
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
        company: Company | None = None,
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
        self._stalled_at = 0.0
        self._gathering = Gathering(company or Company(), share=2, longest_s=GATHERING_S)

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
        if not must and (self._given_up() or self.waiting >= self._max_waiting):
            raise _unavailable()
        self._sequence += 1
        event.id = RecordId(self._instance, self._epoch, self._sequence)
        future: asyncio.Future[RecordReference] = asyncio.get_running_loop().create_future()
        self._pending.append((event, future, must))
        self._gathering.joined(self._pending)
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
        for _, future, _ in (*self._batch, *self._pending):
            _refuse(future)
        return self.waiting

    def _given_up(self) -> bool:
        """Return whether the log has not answered for longer than callers wait."""
        if self._stall is None:
            return False
        return self._clock.monotonic() - self._stalled_at >= self._patience_s

    async def _send_all(self) -> None:
        try:
            while self._pending:
                await self._gathering.wait(self._pending)
                size = min(len(self._pending), MAX_BATCH)
                self._batch = [self._pending.popleft() for _ in range(size)]
                await self._send(self._batch)
                self._batch = []
        finally:
            self._sender = None

    async def _send(self, batch: Sequence[Waiting]) -> None:
        """Send a batch until the log has it, or has refused it for good."""
        try:
            references = await self._append([event for event, _, _ in batch])
        except FINAL as error:
            await self._isolate(batch, error)
        else:
            self._resolve(batch, references)

    async def _append(self, events: Sequence[Event]) -> Sequence[RecordReference]:
        """Return where events stand, however long the log needs; raise what is `FINAL`."""
        start = self._clock.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                references = await self._log.append(events)
                if len(references) != len(events):
                    msg = f"The log gave {len(references)} places for {len(events)} records."
                    raise Internal(msg)  # noqa: TRY301 - as bad as any other answer
            except FINAL:
                self._note_answer()
                raise
            except Exception as error:  # noqa: BLE001 - a number is owed, whatever goes wrong
                self._note_stall(error, start)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                self._note_answer()
                return references

    async def _isolate(self, batch: Sequence[Waiting], error: WeaverError) -> None:
        """Send the events of a refused batch one by one, so that only the bad one is replaced."""
        if len(batch) > 1:
            for waiting in batch:
                await self._send([waiting])
            return
        event, future, _ = batch[0]
        try:
            references = await self._append([_bare(event, error)])
        except FINAL as final:
            _tell(self._observer.rejected, final)
            _refuse(future)
        else:
            _tell(self._observer.replaced, error)
            self._resolve(batch, references)

    def _resolve(self, batch: Sequence[Waiting], references: Sequence[RecordReference]) -> None:
        for (_, future, _), reference in zip(batch, references, strict=True):
            if not future.done():
                future.set_result(reference)
        _tell(self._observer.recorded, len(batch))

    def _note_stall(self, error: Exception, start: float) -> None:
        if self._stall is None:
            if not isinstance(error, WeaverError):
                _log.error("appending to the audit log failed", exc_info=error)
                error = Internal(f"{type(error).__name__}: {error}")
            self._stall, self._stalled_at = error, start
            _tell(self._observer.stalled, error)
        if self._clock.monotonic() - start < self._patience_s:
            return
        for _, future, must in (*self._batch, *self._pending):
            if not must:
                _refuse(future)

    def _note_answer(self) -> None:
        if self._stall is not None:
            self._stall = None
            _tell(self._observer.stalled, None)


def _bare(event: Event, error: WeaverError) -> Event:
    """Return the event that stands in for one that the log refuses: without what may be bad."""
    return Event(
        event.type,
        event.time,
        request_id=event.request_id,
        principal=event.principal,
        surface=event.surface,
        intent_id=event.intent_id,
        outcome=event.outcome,
        attributes={"replaced": error.reason},
        id=event.id,
    )


def _tell(hear: Callable[[_Told], None], told: _Told) -> None:
    """Tell the observer; that it fails is no reason to stop sending."""
    try:
        hear(told)
    except Exception:  # noqa: BLE001 - whatever it is
        _log.exception("the recorder's observer failed")


def _refuse(future: "asyncio.Future[RecordReference]") -> None:
    if not future.done():
        future.set_exception(_unavailable())
        future.exception()


def _unavailable() -> Unavailable:
    msg = "The audit log cannot record this call, so it was not made. Try again."
    return Unavailable(msg, reason="AUDIT_UNAVAILABLE", retry_after_s=1.0)
