"""What the service says of its index, and what waits for it at the start."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from services.audit.following import FollowingIndex
from services.common.health import Health

NAME = "index"


async def follow(
    index: FollowingIndex,
    orders: Callable[[], Awaitable[None]],
    health: Health,
    stack: AsyncExitStack,
) -> None:
    """Show the index in the health, and carry out what needs it.

    The orders of the side store are carried out before the service serves. While the index is being
    made anew that would keep appends waiting, so they follow then, and the side store counts as
    unhealthy until they have.

    Args:
        index: the index.
        orders: carries out what the side store owes, and says how it is.
        health: the service's.
        stack: ends what is under way.
    """
    loop = asyncio.get_running_loop()

    def report(problem: str) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(health.set, NAME, not problem, problem)

    health.set(NAME, True)  # noqa: FBT003 - health's own signature
    index.tell(report)
    if index.whole:
        await orders()
        return
    health.set("side_store", False, "its orders wait for the index")  # noqa: FBT003
    task = asyncio.ensure_future(orders())

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
