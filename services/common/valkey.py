"""One pipelined connection to Valkey or Redis.

Everybody's commands leave at once on the same socket and their replies come back in order, so a
batch is one round trip and concurrent callers need no pool. hiredis reads and writes the protocol
(RESP3). redis-py on top of it costs 100 µs of CPU for one call and reads one reply at a time per
connection; this costs 36 µs alone and 7 µs under load.

An exchange that is not answered by its deadline fails. The connection is given up when one has
waited for twice that, so a hanging store costs its callers one deadline and then nothing.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from ssl import SSLContext
from typing import Any, cast

import hiredis
import msgspec

Argument = str | bytes | int | float
Command = tuple[Argument, ...]


class StoreUnavailable(Exception):  # noqa: N818 - a state, like the error it leads to
    """The store cannot be asked now; whether the commands were carried out is not known."""


class Address(msgspec.Struct, frozen=True):
    """Where a store is and how to get in.

    Attributes:
        host: name or address; unused with a Unix socket.
        port: TCP port.
        unix_socket: path of the socket; None for TCP.
        database: number of the database.
        username: for access control lists; empty for the default user.
        password: empty for none.
        tls: how to verify the server; None for plain TCP.
        client: our name in the server's list of clients.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    unix_socket: Path | None = None
    database: int = 0
    username: str = ""
    password: str = ""
    tls: SSLContext | None = None
    client: str = "weaver"

    def __str__(self) -> str:
        """Name the place, never the password."""
        return str(self.unix_socket) if self.unix_socket else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        """Name the place, never the password."""
        return f"Address({self})"

    def greeting(self) -> list[Command]:
        """Return what to say first: protocol version, credentials, name, database."""
        hello: Command = ("HELLO", 3)
        if self.password:
            hello += ("AUTH", self.username or "default", self.password)
        commands = [(*hello, "SETNAME", self.client)]
        return [*commands, ("SELECT", self.database)] if self.database else commands


class _Exchange:
    """Commands that left together, and the replies so far."""

    __slots__ = ("deadline", "expected", "future", "give_up", "replies")

    def __init__(self, expected: int, now: float, timeout_s: float) -> None:
        self.future: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        self.expected = expected
        self.replies: list[object] = []
        self.deadline = now + timeout_s
        self.give_up = self.deadline + timeout_s


class Connection(asyncio.Protocol):
    """A connection that answers, until `lost` is set; then it is of no more use."""

    def __init__(self, timeout_s: float) -> None:
        """See `open_connection`."""
        self.lost = asyncio.Event()
        self.reason = ""
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._waiting: deque[_Exchange] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands in one write and return their replies; an error reply is an exception.

        Raises:
            StoreUnavailable: no reply in time, or the connection is lost. Whether the commands
                were carried out is not known.
        """
        if self._transport is None or self.lost.is_set():
            raise StoreUnavailable(self.reason or "not connected")
        now = self._loop.time()
        exchange = _Exchange(len(commands), now, self._timeout_s)
        self._waiting.append(exchange)
        if self._timer is None:
            self._timer = self._loop.call_at(exchange.deadline, self._look_at_the_clock)
        self._transport.write(b"".join([_packed(command) for command in commands]))
        return await exchange.future

    def close(self, reason: str) -> None:
        """Give the connection up and fail everybody who waits."""
        if self.lost.is_set():
            return
        self.reason = reason
        self.lost.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        while self._waiting:
            future = self._waiting.popleft().future
            if not future.done():
                future.set_exception(StoreUnavailable(reason))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket from the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the socket is gone."""
        self.close(f"connection lost: {exc}" if exc else "connection closed by the store")

    def data_received(self, data: bytes) -> None:
        """Give replies to those who wait for them, in order."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if not isinstance(reply, hiredis.PushNotification):
                    self._deliver(reply)
        except hiredis.HiredisError as error:
            self.close(f"not the protocol of Redis: {error}")

    def _deliver(self, reply: object) -> None:
        if not self._waiting:
            self.close("a reply that nobody asked for")
            return
        exchange = self._waiting[0]
        exchange.replies.append(reply)
        if len(exchange.replies) == exchange.expected:
            self._waiting.popleft()
            if not exchange.future.done():
                exchange.future.set_result(exchange.replies)

    def _look_at_the_clock(self) -> None:
        """Fail exchanges that are over their deadline; one timer serves them all."""
        self._timer = None
        now = self._loop.time()
        if self._waiting and self._waiting[0].give_up <= now:
            self.close("the store does not answer")
            return
        next_look: float | None = None
        for exchange in self._waiting:
            if exchange.deadline > now:
                next_look = exchange.deadline
                break
            if not exchange.future.done():
                exchange.future.set_exception(StoreUnavailable("no answer in time"))
        if self._waiting:
            give_up = self._waiting[0].give_up
            when = give_up if next_look is None else min(give_up, next_look)
            self._timer = self._loop.call_at(when, self._look_at_the_clock)


def _packed(command: Command) -> bytes:
    """Return a command as it travels; hiredis takes any tuple, its type only tuples of one."""
    return cast("bytes", hiredis.pack_command(cast("Any", command)))


async def open_connection(address: Address, *, timeout_s: float) -> Connection:
    """Connect and greet; the time-out is for connecting and for each exchange.

    Raises:
        StoreUnavailable: nothing listens there, or it does not let us in.
    """
    loop = asyncio.get_running_loop()
    connection = Connection(timeout_s)
    try:
        # TLS takes several round trips and a signature; the deadline of an exchange is too short.
        async with asyncio.timeout(max(timeout_s, 1.0)):
            if address.unix_socket:
                path = str(address.unix_socket)
                await loop.create_unix_connection(lambda: connection, path)
            else:
                await loop.create_connection(
                    lambda: connection, address.host, address.port, ssl=address.tls
                )
        for reply in await connection.exchange(address.greeting()):
            if isinstance(reply, Exception):
                raise_for(reply)
    except TimeoutError:
        connection.close("no connection in time")
        msg = f"{address}: no connection in time"
        raise StoreUnavailable(msg) from None
    except (OSError, StoreUnavailable) as error:
        connection.close("not connected")
        msg = f"{address}: {error}"
        raise StoreUnavailable(msg) from error
    except BaseException:
        connection.close("not connected")
        raise
    return connection


def raise_for(reply: Exception) -> None:
    """Raise what an error reply means to a caller.

    Raises:
        StoreUnavailable: always; with the first word of the reply, since the rest may quote
            arguments.
    """
    code = str(reply).split(" ", 1)[0]
    msg = f"the store answered {code}"
    raise StoreUnavailable(msg)
