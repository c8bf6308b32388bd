"""A thread that works for an event loop, one piece after the other.

It does what an executor with one thread does, with fewer locks and callbacks for each piece: at a
single record a time that is a noticeable part of what an acknowledgement costs.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
_Piece = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Worker:
    """One thread; pieces of work are done in the order in which they are handed over.

    Args:
        name: the thread's.
    """

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], Result]) -> Result:
        """Have the thread do something and return what comes of it.

        A caller that is cancelled stops waiting; the work is done all the same.

        Raises:
            Exception: what the work raised.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._pieces.put((work, future, loop))
        return await future

    def close(self) -> None:
        """Let the thread end what was handed over, and wait for it."""
        self._pieces.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            work, future, loop = piece
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - whoever waits must learn of it
                error = raised
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                return  # The loop is closed: nobody waits any more.


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
