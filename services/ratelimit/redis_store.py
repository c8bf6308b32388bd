"""Accounts in Valkey or Redis: one script call per operation, on the store's own clock.

The store is up while there is a connection that has proved to take writes. Without one, operations
fail at once and in no time; a background task tries again until it is back. So no request ever
waits for a dead store, and nothing needs a restart.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from services.common.backups import IN_THE_STORE, Standing, read_fields
from services.common.valkey import Address, Command, Connection, raise_for
from services.common.valkey_link import Link
from services.common.valkey_location import Location
from services.ratelimit.account import MARK_US
from services.ratelimit.fitness import unfit
from services.ratelimit.ports import Operation, Outcome, Status, StoreUnavailable, Verb

_BEAT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 10)
redis.call('EXPIRE', KEYS[1], 60)
return redis.call('ZCARD', KEYS[1])
"""

_OF_ONE_ACCOUNT = frozenset({"ERR", "WRONGTYPE"})
"""What the store says when something is wrong with one key, and nothing with itself."""

_BACKUPS_EVERY = 60
"""So many looks at the store, one a second, between two at what is known of backups."""

_STATUSES = tuple(Status)
_VERBS = {verb: verb.value.encode() for verb in Verb}


def _ignore(_: int) -> None:
    """Take no note."""


class RedisStore:
    """Applies operations to accounts in a shared store.

    Args:
        location: where the store is.
        timeout_s: the deadline of every exchange.
        on_change: told when the store comes and goes, with a sentence for operators.
        name: this replica among those that share the store; empty is not counted.
        on_replicas: told how many replicas there are, about once a second.
        on_unfit: told why a store should not hold limits; true says to do without it.
        on_backups: told what was written down of backups, about once a minute.
    """

    def __init__(  # noqa: PLR0913 - each is one neighbour or one declared choice
        self,
        location: Location,
        *,
        timeout_s: float,
        on_change: Callable[[bool, str], None],
        name: str = "",
        on_replicas: Callable[[int], None] = _ignore,
        on_unfit: Callable[[str], bool] = bool,
        on_backups: Callable[[Mapping[str, Standing]], None] = lambda _: None,
    ) -> None:
        """See the class."""
        self._on_replicas = on_replicas
        self._on_backups = on_backups
        self._look_at_backups = 0
        self._on_unfit = on_unfit
        self._name = name
        self._script = Path(__file__).with_name("limiter.lua").read_bytes()
        digest = hashlib.sha1(self._script, usedforsecurity=False)  # the name Redis gives it
        self._sha = digest.hexdigest().encode()
        self._link = Link(
            location,
            timeout_s=timeout_s,
            prepare=self._prepare,
            tend=self._tend,
            on_change=on_change,
        )

    async def start(self) -> None:
        """Try to connect once, then go on in the background; a store that is down is no error."""
        await self._link.start()

    async def close(self) -> None:
        """Disconnect and stop trying."""
        await self._link.close()

    async def apply(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        """Apply operations in order in one round trip.

        Raises:
            StoreUnavailable: the store is down, or did not answer in time.
        """
        connection = self._link.connection
        if connection is None:
            msg = "not connected"
            raise StoreUnavailable(msg)
        commands = [self._command(operation) for operation in operations]
        replies = await connection.exchange(commands)
        if any(isinstance(reply, Exception) for reply in replies):
            replies = await self._repair(connection, commands, replies)
        return [
            _outcome(cast("list[int]", reply), len(operation.rules.rules))
            for operation, reply in zip(operations, replies, strict=True)
        ]

    def _command(self, operation: Operation) -> Command:
        key = b"wrl:{" + operation.account + b"}"
        identity = operation.identity
        marked = operation.marked and identity
        command: list[str | bytes | int | float] = [
            b"EVALSHA",
            self._sha,
            *((b"2", key, key + b":" + identity) if marked else (b"1", key)),
            _VERBS[operation.verb],
            identity,
            operation.time_to_live_us,
            MARK_US // 1000,
        ]
        for rule, amount in zip(operation.rules.arguments, operation.amounts, strict=True):
            command += rule
            command.append(amount)
        return tuple(command)

    async def _repair(
        self, connection: Connection, commands: Sequence[Command], replies: list[object]
    ) -> list[object]:
        """Load the script where the store has lost it, and repeat what that prevented."""
        missing = [
            index
            for index, reply in enumerate(replies)
            if isinstance(reply, Exception) and str(reply).startswith("NOSCRIPT")
        ]
        if missing:
            load: Command = ("SCRIPT", "LOAD", self._script)
            again = await connection.exchange([load, *(commands[index] for index in missing)])
            for index, reply in zip(missing, again[1:], strict=True):
                replies[index] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                code = str(reply).split(" ", 1)[0]
                if code not in _OF_ONE_ACCOUNT:
                    # A replica, a full or a loading store: connect anew, to one that writes.
                    connection.close(f"the store answered {code}")
                raise_for(reply)
        return replies

    async def _prepare(self, connection: Connection, address: Address) -> None:
        """Take a store that has the script, takes writes and evicts nothing."""
        probe: Command = ("SET", "wrl:probe", "", "PX", 1000)
        load: Command = ("SCRIPT", "LOAD", self._script)
        for reply in await connection.exchange([load, probe]):
            if isinstance(reply, Exception):
                raise_for(reply)
        problem = await unfit(connection)
        if self._on_unfit(problem):
            msg = f"{address}: {problem}"
            raise StoreUnavailable(msg)

    async def _tend(self, connection: Connection) -> None:
        """Notice a store that hangs; count the replicas."""
        if not self._name:
            await connection.exchange([("PING",)])
            return
        (count,) = await connection.exchange([("EVAL", _BEAT, 1, "wrl:{replicas}", self._name)])
        if isinstance(count, int):
            self._on_replicas(count)
        if self._look_at_backups == 0:
            (found,) = await connection.exchange([("HGETALL", IN_THE_STORE)])
            if isinstance(found, Mapping):
                self._on_backups(read_fields(found))
        self._look_at_backups = (self._look_at_backups + 1) % _BACKUPS_EVERY


def _outcome(reply: list[int], rules: int) -> Outcome:
    status, refused, retry_us, expire_us, now_us, shadows = reply[:6]
    used, details = reply[6 : 6 + rules], reply[6 + rules :]
    return Outcome(_STATUSES[status], refused, retry_us, expire_us, now_us, shadows, used, details)
