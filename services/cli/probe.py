"""One small HTTP request, for what runs on this machine: health, and Envoy's admin interface.

It exists so that `weaver up` does not wait for a client library to load.
"""

import asyncio
import ssl

from services.common.settings import split_address

TIMEOUT_S = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not bound


def reachable(address: str, variable: str) -> tuple[str, int]:
    """Return where this machine reaches what listens on an address."""
    host, port = split_address(address, variable)
    return _EVERYWHERE.get(host, host), port


async def request(
    method: str, place: tuple[str, int], path: str, trust: ssl.SSLContext | None = None
) -> tuple[int, str]:
    """Send a request without a body and return status and body.

    Raises:
        OSError: nothing answers there, or not in time, or its certificate is not trusted.
    """
    async with asyncio.timeout(TIMEOUT_S):
        name = "localhost" if trust else None
        reader, writer = await asyncio.open_connection(*place, ssl=trust, server_hostname=name)
        try:
            head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            writer.write(f"{head}content-length: 0\r\n\r\n".encode())
            answer = (await reader.read()).decode(errors="replace")
        finally:
            writer.close()
    status_line, _, rest = answer.partition("\r\n")
    words = status_line.split(" ")
    if len(words) < 2 or not words[1].isdecimal():  # noqa: PLR2004 - "HTTP/1.1 200 OK"
        msg = "the answer is not HTTP"
        raise ConnectionError(msg)
    return int(words[1]), rest.partition("\r\n\r\n")[2]
