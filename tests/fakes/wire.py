"""An HTTP transport without a network: it answers from a script and keeps what it was sent."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

Piece = bytes | float | Exception
"""Bytes of a body, seconds of silence, or how it breaks."""


@dataclass
class Canned:
    """One response."""

    status: int = 200
    pieces: tuple[Piece, ...] = ()
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    before: float | Exception = 0.0
    """Silence before the headers, or why there are none."""
    closed: bool = False
    read: int = 0
    """Pieces that were asked for."""


class _Body(httpx.AsyncByteStream):
    def __init__(self, canned: Canned) -> None:
        self._canned = canned

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._canned.pieces:
            self._canned.read += 1
            if isinstance(piece, bytes):
                yield piece
            elif isinstance(piece, Exception):
                raise piece
            else:
                await asyncio.sleep(piece)

    async def aclose(self) -> None:
        self._canned.closed = True


class Wire(httpx.AsyncBaseTransport):
    """The transport; requests take the responses in order."""

    def __init__(self, *responses: Canned) -> None:
        """Take the script."""
        self.responses = deque(responses)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer with the next response."""
        self.requests.append(request)
        self.bodies.append(await request.aread())
        canned = self.responses.popleft()
        if isinstance(canned.before, Exception):
            raise canned.before
        await asyncio.sleep(canned.before)
        headers = {"content-type": canned.content_type, **canned.headers}
        return httpx.Response(canned.status, headers=headers, stream=_Body(canned))
