"""A connection to a store that is kept: made again when it is lost, left when the store moves.

The store is up while there is a connection that was found good. Without one there is nothing to
wait for: whoever asks learns at once that the store is down, and a background task tries again.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from services.common.valkey import Address, Connection, StoreUnavailable, open_connection
from services.common.valkey_location import Location

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
STABLE_S = 1.0
"""A connection that held so long starts the next series of retries from the first."""
TEND_S = 0.5


class Link:
    """Keeps a connection.

    Attributes:
        connection: the one that is good now; None while the store is down.
        address: where it goes to.
        made: how many connections there have been.

    Args:
        location: where the store is.
        timeout_s: the deadline of every exchange.
        prepare: examines a new connection, and raises `StoreUnavailable` if it is not good.
        tend: is called with the connection twice a second, and notices a store that hangs.
        on_change: is told when the store comes and goes, with a sentence for operators.
    """

    def __init__(
        self,
        location: Location,
        *,
        timeout_s: float,
        prepare: Callable[[Connection, Address], Awaitable[None]],
        tend: Callable[[Connection], Awaitable[None]],
        on_change: Callable[[bool, str], None],
    ) -> None:
        """See the class."""
        self.connection: Connection | None = None
        self.address: Address | None = None
        self.made = 0
        self._location = location
        self._timeout_s = timeout_s
        self._prepare = prepare
        self._tend = tend
        self._on_change = on_change
        self._keeper: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()

    async def start(self) -> None:
        """Try to connect once, then go on in the background; a store that is down is no error."""
        self._keeper = asyncio.create_task(self._keep_connected())
        await self._decided.wait()

    async def close(self) -> None:
        """Disconnect and stop trying."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self.connection is not None:
            self.connection.close("closed")
        self._location.close()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY_S
        while True:
            try:
                connection, address = await self._connect()
            except StoreUnavailable as error:
                self._tell(up=False, detail=str(error))
            else:
                since = loop.time()
                self.connection, self.address = connection, address
                self.made += 1
                self._tell(up=True, detail=str(address))
                tending = asyncio.create_task(self._look_after(connection, address))
                try:
                    await connection.lost.wait()
                finally:
                    tending.cancel()
                self.connection = None
                self._tell(up=False, detail=f"{address}: {connection.reason}")
                if loop.time() - since > STABLE_S:
                    delay = FIRST_RETRY_S
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - only spreads load
            delay = min(delay * 2, LAST_RETRY_S)

    async def _connect(self) -> tuple[Connection, Address]:
        address = await self._location.find()
        connection = await open_connection(address, timeout_s=self._timeout_s)
        try:
            await self._prepare(connection, address)
        except BaseException:
            connection.close("refused")
            raise
        return connection, address

    async def _look_after(self, connection: Connection, address: Address) -> None:
        """Notice within a second or two that a store hangs or moved."""
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self._tend(connection)
                if self._location.moves and (now := await self._location.find()) != address:
                    connection.close(f"the master is now {now}")
            except StoreUnavailable:
                continue  # the connection itself says when it is of no more use

    def _tell(self, *, up: bool, detail: str) -> None:
        self._on_change(up, detail)
        self._decided.set()
