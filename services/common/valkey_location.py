"""Where the store is: one address, or what the sentinels call the master.

Sentinels are asked all at once, each over a connection that is kept. Of their answers the one with
the highest configuration epoch is believed, so one that is cut off from the others and still names
the old master is outvoted. A sentinel that does not answer costs a fraction of a second.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol, cast

import msgspec

from services.common.valkey import Address, Connection, StoreUnavailable, open_connection

FIRST_ANSWERS_S: Final = 0.2
"""How long to wait for every sentinel when one has answered."""


class Location(Protocol):
    """Knows where the store is."""

    @property
    def moves(self) -> bool:
        """Whether the store can move."""
        ...

    async def find(self) -> Address:
        """Return where it is now.

        Raises:
            StoreUnavailable: nobody knows.
        """
        ...

    def close(self) -> None:
        """Close what was opened."""
        ...


class Fixed:
    """A store that stays where it is."""

    moves: Final = False

    def __init__(self, address: Address) -> None:
        """See the class."""
        self._address = address

    async def find(self) -> Address:
        """Return its address."""
        return self._address

    def close(self) -> None:
        """Close nothing."""


class Sentinels:
    """A store whose master is known to sentinels.

    Args:
        sentinels: where they are and how to get in.
        master: the name that they watch it by.
        store: how to get into the store; host and port are the sentinels' to say.
        timeout_s: how long a sentinel may take to answer.
    """

    moves: Final = True

    def __init__(
        self, sentinels: Sequence[Address], master: str, store: Address, *, timeout_s: float
    ) -> None:
        """See the class."""
        self._sentinels = tuple(sentinels)
        self._master = master
        self._store = store
        self._timeout_s = timeout_s
        self._connections: dict[Address, Connection] = {}
        self._asking: set[asyncio.Task[tuple[int, Address]]] = set()

    async def find(self) -> Address:
        """Ask every sentinel and return the master of the highest epoch.

        Raises:
            StoreUnavailable: none of them knows a master that is up.
        """
        tasks = [asyncio.create_task(self._ask(sentinel)) for sentinel in self._sentinels]
        self._asking.update(tasks)
        for task in tasks:
            task.add_done_callback(self._asking.discard)
        answers: list[tuple[int, Address]] = []
        problems: list[str] = []
        pending = set(tasks)
        try:
            deadline: float | None = None
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=deadline, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    error = task.exception()
                    if error is None:
                        answers.append(task.result())
                        deadline = FIRST_ANSWERS_S
                    else:
                        problems.append(str(error))
        finally:
            for task in pending:
                task.cancel()
        if not answers:
            msg = f"no sentinel knows the master {self._master!r}: {'; '.join(problems)}"
            raise StoreUnavailable(msg)
        return max(answers, key=lambda answer: answer[0])[1]

    def close(self) -> None:
        """Close the connections to the sentinels."""
        for task in self._asking:
            task.cancel()
        for connection in self._connections.values():
            connection.close("closed")
        self._connections.clear()

    async def _ask(self, sentinel: Address) -> tuple[int, Address]:
        """Return the epoch and the place of the master as one sentinel sees it."""
        connection = self._connections.get(sentinel)
        if connection is None or connection.lost.is_set():
            connection = await open_connection(sentinel, timeout_s=self._timeout_s)
            self._connections[sentinel] = connection
        # In the midst of a failover `MASTER` has the new epoch with the old place; only the other
        # command names the replica that is being promoted.
        place, state = await connection.exchange(
            [
                ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master),
                ("SENTINEL", "MASTER", self._master),
            ]
        )
        if isinstance(state, Exception):
            msg = f"{sentinel}: {' '.join(str(state).split()[:6])}"
            raise StoreUnavailable(msg)
        with suppress(KeyError, ValueError, TypeError):
            host, port = cast("list[object]", place)
            store = msgspec.structs.replace(
                self._store, host=_text(host), port=int(_text(port)), unix_socket=None
            )
            return int(_fields(state)["config-epoch"]), store
        msg = f"{sentinel}: not the answer of a sentinel"
        raise StoreUnavailable(msg)


def _fields(reply: object) -> dict[str, str]:
    """Return the fields of a reply, which is a map in RESP3 and a flat list before."""
    if isinstance(reply, Mapping):
        pairs = list(reply.items())
    elif isinstance(reply, list):
        pairs = list(zip(reply[::2], reply[1::2], strict=False))
    else:
        return {}
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
