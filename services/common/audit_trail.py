"""Sends a service's own events to the audit log, behind everybody's back.

A bounded queue and one task: recording never blocks a decision and never fails one. While the audit
service is away, records wait; when the queue is full the oldest is dropped and the next one sent
says how many were. Sequence numbers are given when a record is first sent, so dropping leaves no
hole.
"""

import asyncio
import os
import re
import secrets
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.channel import call, open_channel
from services.common.clock import Clock
from services.common.fingerprint import start_attributes
from services.common.settings import CommonSettings
from weaver.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, record_pb2

log = structlog.get_logger()

Append = Callable[[audit_service_pb2.AppendRecordsRequest], Awaitable[object]]

TIMEOUT_S = 5.0
_APPEND = "/weaver.audit.v1.AuditService/AppendRecords"


class AuditTrail:
    """Records starts and ends, degradation and changes of policy in the audit log.

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
        self.instance = instance
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

    def started(self, attributes: Mapping[str, str]) -> None:
        """Record that the service started; see `services.common.fingerprint`."""
        self._record(record_pb2.EVENT_TYPE_SERVICE_STARTED, attributes)

    def stopped(self, attributes: Mapping[str, str]) -> None:
        """Record that the service stops."""
        self._record(record_pb2.EVENT_TYPE_SERVICE_STOPPED, attributes)

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
            record_pb2.RecordId(instance=self.instance, epoch=self._epoch, sequence=self._sequence)
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


def open_trail(  # noqa: PLR0913 - what a trail is made of
    name: str,
    settings: CommonSettings,
    stack: AsyncExitStack,
    *,
    address: str,
    channel: Any = None,  # noqa: ANN401 - a grpc.aio or a local channel
    clock: Clock,
) -> AuditTrail:
    """Return a service's trail, begun with its start; the stack ends it with its end.

    Args:
        name: the service's, as its certificate carries it.
        settings: the service's.
        stack: closes what is opened.
        address: where the audit service is; empty for nowhere: nothing is recorded.
        channel: reaches the audit service; None opens one to the address.
        clock: dates the records.
    """
    if channel is None and address:
        channel = open_channel(address, settings, own=name, peer="audit", idempotent=(_APPEND,))
        stack.push_async_callback(channel.close)
    append = None
    if channel is not None:
        stub: Any = audit_service_pb2_grpc.AuditServiceStub(channel)
        append = partial(call, stub.AppendRecords, timeout_s=TIMEOUT_S)
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
    instance = f"{name}-{host}-{os.getpid()}-{secrets.token_hex(2)}"
    trail = AuditTrail(append, instance=instance, clock=clock)
    trail.start()
    trail.started(start_attributes(name, settings))
    stack.push_async_callback(trail.close)
    stack.callback(trail.stopped, {"service": name})
    return trail
