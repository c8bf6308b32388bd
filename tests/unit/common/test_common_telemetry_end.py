"""A process ends in time, whatever its collector does."""

import asyncio
import threading

from services.common.telemetry import bounded


async def test_only_the_first_of_many_queues_waits_for_a_collector_that_hangs() -> None:
    hang = threading.Event()

    def wait() -> None:
        hang.wait(1.5)

    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(8):
        await bounded(wait)
    hang.set()
    assert 1.5 <= loop.time() - began < 4


async def test_queues_that_end_at_once_are_waited_for_each() -> None:
    ended: list[int] = []
    for number in range(8):
        await bounded(lambda number=number: ended.append(number))  # type: ignore[misc]
    assert ended == list(range(8))
