"""Calls that ride together: while one batch is under way the next gathers.

An idle batcher sends at once, a busy one sends what has gathered when the last batch returns. So a
batch adds no wait of its own, and its size follows the load. One that knows its `Company` waits a
moment for callers who are about to come: each batch costs system calls and wakes other processes,
and where many callers share a processor, all of them pay for it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence, Sized
from typing import Generic, TypeVar, cast

from services.common.errors import Internal, ResourceExhausted

Item = TypeVar("Item")
Result = TypeVar("Result")


class Company:
    """Callers who are on their way to a batch; those who wait for somebody slow are not.

    Used as a context, it counts a caller in.

    Attributes:
        near: how many there are.
    """

    __slots__ = ("absence", "near")

    def __init__(self) -> None:
        """Begin with nobody."""
        self.near = 0
        self.absence = _Absence(self)

    def __enter__(self) -> None:
        """Count a caller in."""
        self.near += 1

    def __exit__(self, *_: object) -> None:
        """Count a caller out."""
        self.near -= 1


class _Absence:
    """Counts a caller out for a while; see `Company.absence`."""

    __slots__ = ("_company",)

    def __init__(self, company: Company) -> None:
        self._company = company

    def __enter__(self) -> None:
        self._company.near -= 1

    def __exit__(self, *_: object) -> None:
        self._company.near += 1


class Gathering:
    """The wait of one batch at a time for its company.

    Args:
        company: who may come.
        share: a batch is worth sending once it holds one in so many of them.
        longest_s: how long it waits at most.
    """

    def __init__(self, company: Company, *, share: int, longest_s: float) -> None:
        """See the class."""
        self._company = company
        self._share = share
        self._longest_s = longest_s
        self._enough: asyncio.Future[None] | None = None

    async def wait(self, pending: Sized) -> None:
        """Wait until enough are pending, or too long; not at all where nobody else is near."""
        if self._suffices(pending):
            return
        loop = asyncio.get_running_loop()
        self._enough = loop.create_future()
        timer = loop.call_later(self._longest_s, self._leave)
        try:
            await self._enough
        finally:
            timer.cancel()
            self._enough = None

    def joined(self, pending: Sized) -> None:
        """Take note that the batch has grown."""
        if self._enough is not None and self._suffices(pending):
            self._leave()

    def _suffices(self, pending: Sized) -> bool:
        return len(pending) * self._share >= self._company.near

    def _leave(self) -> None:
        if self._enough is not None and not self._enough.done():
            self._enough.set_result(None)


class Batcher(Generic[Item, Result]):
    """Gathers items of concurrent callers into batches, one batch under way at a time.

    A caller that is cancelled stops waiting; its item still travels, since it may already have.

    Args:
        send: takes a batch and returns one result for each item, in order; a result that is an
            exception is raised for its caller alone, an exception raised fails the whole batch.
        max_batch: items in one batch at most.
        max_pending: items waiting at most; beyond it `submit` raises `ResourceExhausted`.
        concurrency: batches under way at once at most.
        linger_s: how long the first item of an idle batcher waits for others, or for `hurry`: for
            what nobody waits for.
        gathering: how a batch waits for its company; None for not at all. One batch under way at
            a time.
    """

    def __init__(  # noqa: PLR0913 - what a queue has
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_batch: int = 256,
        max_pending: int = 4096,
        concurrency: int = 1,
        linger_s: float = 0.0,
        gathering: Gathering | None = None,
    ) -> None:
        """See the class."""
        self._linger_s = linger_s
        self._gathering = gathering
        self._lingering: asyncio.TimerHandle | None = None
        self._send = send
        self._max_batch = max_batch
        self._max_pending = max_pending
        self._concurrency = concurrency
        self._pending: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Send an item with the next batch and return its result.

        Raises:
            ResourceExhausted: too many items are waiting.
        """
        return await self.enqueue(item)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """Put an item into the next batch without waiting; it travels, whoever stays to see it.

        Raises:
            ResourceExhausted: too many items are waiting.
        """
        if len(self._pending) >= self._max_pending:
            msg = "Too many requests are waiting; try again."
            raise ResourceExhausted(msg, reason="QUEUE_FULL", retry_after_s=0.1)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending.append((item, future))
        if self._gathering is not None:
            self._gathering.joined(self._pending)
        if len(self._under_way) < self._concurrency and self._lingering is None:
            if self._linger_s:
                loop = asyncio.get_running_loop()
                self._lingering = loop.call_later(self._linger_s, self.hurry)
            else:
                self._begin()
        return future

    def hurry(self) -> None:
        """Send what lingers now."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
            self._begin()

    def take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Take what lingers out, to send it some other way; resolve it, or give it `back`."""
        if self._lingering is None:
            return []
        size = min(len(self._pending), self._max_batch)
        taken = [self._pending.popleft() for _ in range(size)]
        if not self._pending:
            self._lingering.cancel()
            self._lingering = None
        return taken

    def back(self, taken: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        """Send at once, before all others, what was taken in vain."""
        self._pending.extendleft(reversed(taken))
        if self._lingering is not None:
            self.hurry()
        elif self._pending and len(self._under_way) < self._concurrency:
            self._begin()

    async def close(self) -> None:
        """Wait until everything that was submitted has been sent."""
        self.hurry()
        while self._under_way:
            await asyncio.gather(*self._under_way)

    def _begin(self) -> None:
        task = asyncio.create_task(self._drain_all())
        self._under_way.add(task)

    async def _drain_all(self) -> None:
        try:
            await self._drain()
        finally:
            # Here and not when the task is done: between the two a caller that has just been
            # answered may come again, and would wait for a batch that nobody sends.
            self._under_way.discard(cast("asyncio.Task[None]", asyncio.current_task()))

    async def _drain(self) -> None:
        while self._pending:
            if self._gathering is not None:
                await self._gathering.wait(self._pending)
            size = min(len(self._pending), self._max_batch)
            batch = [self._pending.popleft() for _ in range(size)]
            try:
                results = await self._send([item for item, _ in batch])
                if len(results) != size:
                    msg = f"{len(results)} results came back for {size} items."
                    results = [Internal(msg)] * size
            except asyncio.CancelledError:
                for _, future in batch:
                    future.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - every waiting caller learns of it
                results = [error] * size
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
