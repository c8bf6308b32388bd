"""The addresses of a name over time, so that a new replica is found before an old one leaves.

gRPC looks a name up again only when a connection ends. Where replicas are replaced one after the
other, the moment in which the last of the old ones ends would also be the first in which anybody
asks for the new ones: a name server that is slow at that moment fails calls.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Collection

LOOK_S = 3.0
"""How often a name is looked up."""

Resolve = Callable[[str, int], Awaitable[Collection[str]]]

_PLAIN = re.compile(r"dns:///(\[[^\]]+\]|[^:/\[\]]+):(\d+)")


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
        self._known: Collection[str] = ()

    async def until_new(self) -> None:
        """Wait until the name has an address that it did not have before.

        What is known at first is what a channel finds by itself. A name that is not found now
        keeps what it had: its servers may be away, and those that it names well.
        """
        while True:
            try:
                found = await self._resolve(self._host, self._port)
            except OSError:
                found = ()
            before = self._known
            self._known = found or before
            if before and set(self._known) - set(before):
                return
            await asyncio.sleep(LOOK_S)
