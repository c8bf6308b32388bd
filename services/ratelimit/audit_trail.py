"""Sends the service's own events to the audit log, behind everybody's back.

A bounded queue and one task: recording never blocks a decision and never fails one. While the audit
service is away, records wait; when the queue is full the oldest is dropped and the next one sent
says how many were. Sequence numbers are given when a record is first sent, so dropping leaves no
hole.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.clock import Clock
from weaver.audit.v1 import audit_service_pb2, record_pb2

log = structlog.get_logger()

Append = Callable[[audit_service_pb2.AppendRecordsRequest], Awaitable[object]]


class AuditTrail:
    """Records degradation and changes of policy in the audit log.

    Args:
        append: calls `AuditService.AppendRecords`; None when there is no audit service.
        instance: names this process in the log, unique in a deployment.
        clock: its wall clock dates the events and this boot.
        capacity: events that wait at most.
        retry_s: the longest wait between two tries.
    """

    def __init__(
        self,
        append: Append | None,
        *,
        instance: str,
        clock: Clock,
        capacity: int = 256,
        retry_s: float = 5.0,
    ) -> None:
        """See the class."""
        self._append = append
        self._instance = instance
        self._clock = clock
        self._epoch = int(clock.time() * 1000)
        self._sequence = 0
        self._retry_s = retry_s
        self._capacity = capacity
        self._waiting: deque[record_pb2.Record] = deque()
        self._dropped = 0
        self._arrived = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._sender: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        if self._append is not None:
            self._sender = asyncio.create_task(self._send_all(self._append))

    async def close(self, *, timeout_s: float = 1.0) -> None:
        """Give what waits a moment to leave, then stop."""
        if self._sender is None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        if self._waiting:
            log.warning("audit_records_lost", count=len(self._waiting))

    def degraded(self, *, entered: bool, attributes: Mapping[str, str]) -> None:
        """Record that the service goes on without a dependency, or has it back."""
        kind = record_pb2.EVENT_TYPE_DEGRADED_LEFT
        if entered:
            kind = record_pb2.EVENT_TYPE_DEGRADED_ENTERED
        self._record(kind, attributes)

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        """Record that another policy decides, or that one was refused."""
        self._record(record_pb2.EVENT_TYPE_CONFIGURATION_CHANGED, attributes)

    def _record(self, kind: record_pb2.EventType.ValueType, attributes: Mapping[str, str]) -> None:
        if self._append is None:
            return
        time = Timestamp()
        time.FromNanoseconds(int(self._clock.time() * 1e9))
        record = record_pb2.Record(event_time=time, type=kind, attributes=attributes)
        if len(self._waiting) >= self._capacity:
            # The one in front may be on its way and has its number: the next one goes.
            del self._waiting[1]
            self._dropped += 1
        self._waiting.append(record)
        self._empty.clear()
        self._arrived.set()

    async def _send_all(self, append: Append) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._send(append, self._waiting[0])
                self._waiting.popleft()
            self._empty.set()

    async def _send(self, append: Append, record: record_pb2.Record) -> None:
        """Send one record until it is acknowledged."""
        self._sequence += 1
        record.id.CopyFrom(
            record_pb2.RecordId(instance=self._instance, epoch=self._epoch, sequence=self._sequence)
        )
        if self._dropped:
            record.attributes["dropped_before"] = str(self._dropped)
            self._dropped = 0
        request = audit_service_pb2.AppendRecordsRequest(records=[record])
        delay = 0.05
        while True:
            try:
                await append(request)
            except Exception as error:  # noqa: BLE001 - whatever it is, the record must still go
                log.warning("audit_append_failed", error=type(error).__name__, retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._retry_s)
            else:
                return
