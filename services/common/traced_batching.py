"""Batches that know which requests ride in them, for traces; `batching` where nothing is traced."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.common import telemetry
from services.common.batching import Batcher, Item, Result
from services.common.telemetry import Scope


class TracedBatcher(Batcher[Item, Result]):
    """Sends each batch below the first of its items that is traced, linked to the others.

    Args:
        send: as of `Batcher`.
        options: as of `Batcher`.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        **options: Any,  # noqa: ANN401 - those of another class
    ) -> None:
        """See the class."""
        self._scopes: deque[Scope | None] = deque()
        self._send_on = send
        super().__init__(self._send_traced, **options)

    def enqueue(self, item: Item) -> "Any":  # noqa: ANN401 - a future of the result
        """Put an item into the next batch, and remember for whom."""
        future = super().enqueue(item)
        self._scopes.append(telemetry.scope.get())
        return future

    async def _send_traced(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        # Batches leave in the order in which their items came.
        scopes = [self._scopes.popleft() for _ in items]
        telemetry.scope.set(telemetry.together(scopes))
        return await self._send_on(items)
