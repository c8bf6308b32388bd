"""What runs while faults are injected: a client that repeats until it is acknowledged.

It is the real log over real files, in a process of its own. The client does what a gateway does:
it repeats a batch under its ids until the log says where it stands. What was said is passed on at
once, so that a kill cannot take it back.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from services.audit import events, wiring
from services.audit.commit import Limits
from services.audit.wal import WriteAheadLog
from services.common.errors import ResourceExhausted, Unavailable
from services.common.settings import SettingsError
from tests.fakes.auditlog import RunningLog, intent, record, running_log
from weaver.audit.v1 import audit_service_pb2 as pb

RETRY_S = 0.02
TRIES = 400
Batch = list[int]
Script = Callable[["Client"], Awaitable[None]]


class Said(msgspec.Struct):
    """One line of what a client learned.

    Attributes:
        sequences: the records of a batch that was acknowledged.
        indexes: where they stand.
        refused: an append or a start was refused so.
        done: the script came to its end.
    """

    sequences: list[int] = []
    indexes: list[int] = []
    refused: str = ""
    done: bool = False


class Client:
    """Appends batches until they are acknowledged.

    Args:
        running: the log.
        say: passes on what was learned.
    """

    def __init__(self, running: RunningLog, say: Callable[[Said], None]) -> None:
        self.running = running
        self.say = say

    async def append(self, batch: Batch) -> list[int]:
        """Append records by their sequence numbers, however often it takes."""
        records = [intent(i) if i % 3 == 0 else record(i) for i in batch]
        for _ in range(TRIES):
            try:
                indexes = await self.running.append(records)
            except (Unavailable, ResourceExhausted) as error:
                # A refusal says when to come back.
                self.say(Said(refused=error.reason if error.retry_after_s else "for good"))
                await asyncio.sleep(RETRY_S)
            else:
                self.say(Said(batch, indexes))
                return indexes
        msg = f"the batch {batch[:3]}... was never taken"
        raise AssertionError(msg)

    async def covered(self, index: int) -> None:
        """Wait for the receipt of a record."""
        for _ in range(TRIES):
            try:
                await self.running.stub.GetReceipt(pb.GetReceiptRequest(index=index))
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                return
        msg = f"no checkpoint ever covered record {index}"
        raise AssertionError(msg)

    async def append_and_wait(self, batch: Batch) -> None:
        """Append records and wait for the receipt of the last."""
        await self.covered((await self.append(batch))[-1])


BATCHES: Sequence[Batch] = (
    [1],
    list(range(2, 8)),
    list(range(8, 254)),  # Fills the first tile: three records of the service come before.
    [254],
    list(range(255, 330)),
    [330, 331],
    [332],
)


async def everything(client: Client) -> None:
    """Grow a log from nothing over its first full tile, over several segments."""
    for batch in BATCHES[:5]:
        await client.append_and_wait(batch)
    await client.append(BATCHES[1])  # The reply was lost, say.
    await asyncio.gather(*(client.append(batch) for batch in BATCHES[5:]))


def run(
    state: Path,
    script: Script,
    say: Callable[[Said], None],
    *,
    starts: int = 1,
    stall_s: float = 5.0,
    **settings: object,
) -> None:
    """Start a log, run a script on it, end it gracefully.

    A start that is refused with a sentence is tried again, as a supervisor does, so often at most.
    """
    _hasten(stall_s)

    async def main() -> None:
        for attempt in range(1, starts + 1):
            try:
                async with running_log(
                    state, **{"checkpoint_interval_ms": 0, **settings}
                ) as running:
                    await script(Client(running, say))
                    health = running.component.health
                    async with asyncio.timeout(10):
                        while not health.serving:
                            await asyncio.sleep(RETRY_S)
            except SettingsError as error:
                say(Said(refused=str(error)))
                if attempt == starts:
                    raise
            else:
                say(Said(done=True))
                return

    uvloop.run(main())


def _hasten(stall_s: float) -> None:
    """Shorten pauses, and segments so that there are several; everything else is the real thing."""
    events._RETRY_S = RETRY_S
    vars(wiring)["Limits"] = partial(Limits, retry_s=RETRY_S, stall_s=stall_s)
    vars(wiring)["WriteAheadLog"] = partial(WriteAheadLog, segment_size=20_000)


def writer(descriptor: int) -> Callable[[Said], None]:
    """Return what passes on to a pipe, one line a write, so that a line is whole or not there."""

    def say(said: Said) -> None:
        os.write(descriptor, msgspec.json.encode(said) + b"\n")

    return say
