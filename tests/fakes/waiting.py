"""Waits for what another task, thread or process is about to do."""

import asyncio
from collections.abc import Callable


async def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not, for so long.
    """
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
