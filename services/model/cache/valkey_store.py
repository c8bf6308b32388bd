"""Sealed entries in a Valkey or Redis of their own, which may be slow, full or gone.

Whoever asks waits for one short deadline at most, and for nothing while the store is known to be
away: there is no connection then, or a breaker rests. Writing is done behind everybody's back, and
left undone when too much of it waits. It refuses a store that holds limits or API keys, which
must forget nothing, and stops writing when the store has grown as large as it may.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, cast

from services.common.clock import Clock
from services.common.valkey import Address, Connection, StoreUnavailable, raise_for
from services.common.valkey_link import Link
from services.common.valkey_location import Fixed
from services.model.breaker import Breaker, BreakerPolicy, State
from services.model.cache.ports import CacheMeter, StoreGoneError

MOST_WAITING_BYTES: Final = 16 * 1024 * 1024
_ENDLESS: Final = 2**63
_OF_ONE_ENTRY: Final = ("OOM", "WRONGTYPE")
"""How errors begin that say nothing of the store as a whole."""
_OF_OTHERS: Final = ("wrl:{replicas}", "wvk:{keys}.index")
"""By these names a store is known that holds limits or API keys."""
_REST: Final = BreakerPolicy(failures=3, open_s=1.0, longest_open_s=30.0)


class ValkeyStore:
    """The port `Store`.

    Args:
        address: where the store is.
        timeout_s: the deadline of every exchange.
        max_bytes: how large the store may grow.
        clock: for the breaker.
        meter: counts what is kept.
        on_change: told when the store comes and goes, with a sentence for operators.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour or one declared choice
        self,
        address: Address,
        *,
        timeout_s: float,
        max_bytes: int,
        clock: Clock,
        meter: CacheMeter,
        on_change: Callable[[bool, str], None],
    ) -> None:
        """See the class."""
        self._address = address
        self._max_bytes = max_bytes
        self._clock = clock
        self._meter = meter
        self._on_change = on_change
        self._breaker = Breaker(_REST)
        self._breaker.on_change = self._rests
        self._link = Link(
            Fixed(address),
            timeout_s=timeout_s,
            prepare=self._prepare,
            tend=self._tend,
            on_change=on_change,
        )
        self._writing: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._room = 0

    async def start(self) -> None:
        """Try to connect once, then go on in the background; a store that is down is no error."""
        await self._link.start()

    async def close(self) -> None:
        """Finish what is being written, as far as the deadline allows, and disconnect."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self._link.close()

    async def get(self, name: bytes) -> bytes | None:
        """Return what is kept under a name; None when nothing is.

        Raises:
            StoreGoneError: it cannot be asked now, or did not answer in time.
        """
        reply = await self._exchange("GET", name)
        return reply if isinstance(reply, bytes) else None

    def put(self, name: bytes, value: bytes, time_to_live_s: float) -> None:
        """Keep something in the background, or do not; nobody waits for it."""
        size = len(value)
        if self._link.connection is None:
            self._meter.cache_kept("unavailable")
        elif size > self._room:
            self._meter.cache_kept("full")
        elif self._waiting_bytes + size > MOST_WAITING_BYTES:
            self._meter.cache_kept("busy")
        else:
            self._room -= size
            self._waiting_bytes += size
            task = asyncio.create_task(self._put(name, value, time_to_live_s))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _put(self, name: bytes, value: bytes, time_to_live_s: float) -> None:
        try:
            reply = await self._exchange("SET", name, value, "PX", int(time_to_live_s * 1000))
        except StoreGoneError:
            self._meter.cache_kept("unavailable")
        else:
            self._meter.cache_kept("full" if isinstance(reply, Exception) else "kept")
        finally:
            self._waiting_bytes -= len(value)

    async def _exchange(self, *command: str | bytes | int) -> object:
        """Return the reply to one command; an error that concerns one entry is a value.

        Raises:
            StoreGoneError: there is none.
        """
        connection, breaker = self._link.connection, self._breaker
        if connection is None or not breaker.admit(self._clock.monotonic()):
            raise StoreGoneError
        try:
            (reply,) = await connection.exchange([command])
        except StoreUnavailable as error:
            breaker.failed(self._clock.monotonic())
            raise StoreGoneError from error
        except BaseException:
            breaker.withdrawn()
            raise
        if isinstance(reply, Exception) and not str(reply).startswith(_OF_ONE_ENTRY):
            # A replica, a loading store, one that does not let us: another connection may do.
            breaker.failed(self._clock.monotonic())
            connection.close(f"the store answered {str(reply).split(' ', 1)[0]}")
            raise StoreGoneError
        breaker.succeeded(self._clock.monotonic())
        return reply

    async def _prepare(self, connection: Connection, _: Address) -> None:
        await self._look(connection)

    async def _tend(self, connection: Connection) -> None:
        try:
            await self._look(connection)
        except UnfitError as error:
            connection.close(str(error))

    async def _look(self, connection: Connection) -> None:
        """See how much room the store has, and that it is a store of our own.

        Raises:
            StoreUnavailable: it cannot be seen; `UnfitError` when the store is not for us.
        """
        commands = [("INFO", "memory"), ("EXISTS", *_OF_OTHERS)]
        replies = await connection.exchange([*commands])
        for reply in replies:
            if isinstance(reply, Exception):
                raise_for(reply)
        if replies[1]:
            msg = f"{self._address}: it holds limits or API keys; the cache needs its own"
            raise UnfitError(msg)
        self._room = self._room_of(_fields(replies[0]))

    def _room_of(self, memory: Mapping[str, str]) -> int:
        """Return how much may be written until the next look."""
        most = int(memory.get("maxmemory", "0"))
        if 0 < most <= self._max_bytes and memory.get("maxmemory_policy") != "noeviction":
            return _ENDLESS  # It makes room itself.
        return max(0, self._max_bytes - int(memory.get("used_memory", "0")))

    def _rests(self, state: State, reason: str) -> None:
        """Tell that the store is left alone because it is slow, and that it is asked again."""
        if state is State.OPEN and self._link.connection is not None:
            self._on_change(False, f"{self._address}: {reason}")  # noqa: FBT003 - its form
        elif state is State.CLOSED:
            self._on_change(self._link.connection is not None, str(self._address))


class UnfitError(StoreUnavailable):
    """The store is there, and not for us."""


def _fields(reply: object) -> dict[str, str]:
    """Return the fields of what INFO says."""
    if not isinstance(reply, bytes | str):
        return {}
    text = reply if isinstance(reply, str) else reply.decode(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return cast("dict[str, str]", {name: value.strip() for name, _, value in pairs})
