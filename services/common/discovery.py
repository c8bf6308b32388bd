"""The addresses of a name over time, so that a new replica is found before an old one leaves.

gRPC looks a name up by itself only when a connection ends. Where replicas are replaced one after
the other, that is when a name server has the most to do: what it answers then may lack the new
replica, and after an answer that failed gRPC waits longer and longer before it asks again. So
channels get addresses, and this is who asks.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection

LOOK_S = 3.0
"""How often a name is looked up."""
SOON_S = 0.5
"""How often while there is no connection, or an address is missing: another may take its place."""
GONE_LOOKS = 20
"""In how many answers an address is missing until it is believed to be gone."""
SILENT_S = 1.0
"""How long an answer takes at most where the name server is well."""

Resolve = Callable[[str, int], Awaitable[Collection[str]]]

_PLAIN = re.compile(r"dns:///(\[[^\]]+\]|[^:/\[\]]+):(\d+)")
_SCHEMES = {4: "ipv4:", 6: "ipv6:"}


def named(address: str) -> tuple[str, int] | None:
    """Return name and port of `dns:///name:port`; None for what this machine does not look up."""
    found = _PLAIN.fullmatch(address)
    return None if found is None else (found[1].strip("[]"), int(found[2]))


async def resolve(host: str, port: int) -> Collection[str]:
    """Return the addresses of a name, as this machine's resolver knows them; raise OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {str(address[0]) for _, _, _, _, address in found}


class Discovery:
    """Watches a name.

    Args:
        host: the name.
        port: goes along.
        resolve: looks it up.
    """

    def __init__(self, host: str, port: int, resolve: Resolve = resolve) -> None:
        """See the class."""
        self._host, self._port = host, port
        self._resolve = resolve
        self._taken: frozenset[str] = frozenset()
        self._lacking = 0
        self._asked: float | None = None

    def silent(self, now: float) -> bool:
        """Return whether nobody can say where the neighbour is: an answer is due, or was none."""
        return self._asked is not None and now - self._asked > SILENT_S

    async def until_other(self, lost: Callable[[], bool]) -> frozenset[str]:
        """Wait until the name has other addresses than those that were taken, and return them.

        A name that is not found now keeps what it had: its servers may be away, and those that it
        names well. For the same reason an address has to be missing for a while.

        Args:
            lost: whether there is no connection, so that it is urgent.
        """
        while True:
            found = await self._look()
            if found - self._taken:
                return found
            self._lacking = self._lacking + 1 if found and found != self._taken else 0
            if self._lacking >= GONE_LOOKS:
                return found
            await self._pause(lost)

    def take(self, found: frozenset[str]) -> None:
        """Take note that a channel leads to these addresses."""
        self._taken, self._lacking = found, 0

    def target(self, found: frozenset[str]) -> str | None:
        """Return what gRPC calls these addresses; None for what only their name can mean."""
        addresses = [ipaddress.ip_address(one) for one in sorted(found)]
        versions = {one.version for one in addresses}
        if len(versions) != 1 or any("%" in one for one in found):
            return None
        places = (f"[{one}]" if one.version == 6 else str(one) for one in addresses)  # noqa: PLR2004 - IP's
        return _SCHEMES[versions.pop()] + ",".join(f"{place}:{self._port}" for place in places)

    async def _look(self) -> frozenset[str]:
        """Return what the name server says now; nothing where it does not know the name."""
        if self._asked is None:
            self._asked = asyncio.get_running_loop().time()
        try:
            found = frozenset(await self._resolve(self._host, self._port))
        except OSError as error:
            if error.errno != socket.EAI_AGAIN:
                self._asked = None
            return frozenset()
        self._asked = None
        return found

    async def _pause(self, lost: Callable[[], bool]) -> None:
        """Wait for the next look, or until it is urgent."""
        loop = asyncio.get_running_loop()
        end = loop.time() + LOOK_S
        while True:
            await asyncio.sleep(min(SOON_S, LOOK_S))
            if loop.time() >= end or self._lacking or lost():
                return
