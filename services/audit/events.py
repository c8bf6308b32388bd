"""What the audit service itself writes into its log: its start, its end, its keys.

Its records have ids like everybody's, without a hole: one is repeated until it is durable before
the next is made.
"""

import asyncio
from collections.abc import Mapping

from services.audit.log import Log
from services.audit.merkle import leaf_hash
from services.audit.ports import Entry
from services.audit.record import (
    SCHEMA_VERSION,
    EventType,
    Principal,
    Record,
    RecordId,
    encode,
    event_time_text,
)
from services.common.clock import Clock
from services.common.errors import ResourceExhausted, Unavailable

_RETRY_S = 0.2
_NANOS = 1_000_000_000


class OwnEvents:
    """Appends the service's own records.

    Args:
        log: the log.
        instance: the name of this service's instance; begins with `audit`.
        clock: for the records' times and the epoch.
        after: the epoch of an earlier boot; this one's is newer, whatever the clock says.
    """

    def __init__(self, log: Log, instance: str, clock: Clock, *, after: int = 0) -> None:
        """See the class."""
        self._log = log
        self._instance = instance
        self._clock = clock
        self._epoch = max(int(clock.time() * 1000), after + 1)
        self._sequence = 0
        self._last: Entry | None = None
        self._turn = asyncio.Lock()

    async def record(
        self,
        event_type: EventType,
        attributes: Mapping[str, str],
        *,
        tries: int = 50,
        principal: Principal | None = None,
        request_id: str = "",
    ) -> int | None:
        """Append a record and return its index; None when the log refused it to the last try."""
        async with self._turn:
            entry = self._entry(event_type, attributes, principal, request_id)
            for _ in range(tries):
                try:
                    (index,) = await self._log.append([entry])
                except (Unavailable, ResourceExhausted):
                    await asyncio.sleep(_RETRY_S)
                else:
                    self._sequence += 1
                    self._last = entry
                    return index
            return None

    async def barrier(self) -> None:
        """Wait until everything that was taken before this is durable.

        A record that is in the log is acknowledged again, behind what was taken before it.

        Raises:
            ResourceExhausted: too much waits.
            Unavailable: the disk refuses.
        """
        if self._last is not None:
            await self._log.append([self._last])

    def _entry(
        self,
        event_type: EventType,
        attributes: Mapping[str, str],
        principal: Principal | None,
        request_id: str,
    ) -> Entry:
        seconds, nanos = divmod(int(self._clock.time() * _NANOS), _NANOS)
        record_id = RecordId(self._epoch, self._instance, self._sequence + 1)
        data = encode(
            Record(
                attributes=dict(sorted(attributes.items())),
                event_time=event_time_text(seconds, nanos),
                id=record_id,
                principal=principal,
                request_id=request_id,
                type=event_type,
                version=SCHEMA_VERSION,
            )
        )
        return Entry(data, leaf_hash(data), record_id, None)
