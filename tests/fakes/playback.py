"""A vendor on loopback that plays recorded answers byte for byte, in pieces."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True)
class Played:
    """One response.

    Args:
        body: what is sent; a dict as JSON.
        status: the HTTP status.
        content_type: of a stream, or of JSON.
        headers: more response headers.
        piece: bytes of a piece; 0 sends the body at once.
        cut: end the connection without the body's end.
        stall_s: say nothing for so long before the body's end.
    """

    body: Any
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    piece: int = 0
    cut: bool = False
    stall_s: float = 0


@dataclass(frozen=True)
class Asked:
    """One request as it came off the wire."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Playback:
    """The server: requests take the responses in order."""

    def __init__(self) -> None:
        """Play nothing yet."""
        self.port = 0
        self.played: deque[Played] = deque()
        self.requests: list[Asked] = []
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)

    @property
    def base_url(self) -> str:
        """The base URL with a version."""
        return f"http://127.0.0.1:{self.port}/v1"

    def play(self, *responses: Played) -> None:
        """Answer the next requests."""
        self.played.extend(responses)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append(Asked(request.path_qs, headers, await request.read()))
        played = self.played.popleft()
        body = played.body if isinstance(played.body, bytes) else json.dumps(played.body).encode()
        response = web.StreamResponse(status=played.status, headers=dict(played.headers))
        response.content_type = played.content_type
        await response.prepare(request)
        size = played.piece or len(body) or 1
        for start in range(0, len(body), size):
            await response.write(body[start : start + size])
            await asyncio.sleep(0)
        await asyncio.sleep(played.stall_s)
        if played.cut and request.transport is not None:
            await asyncio.sleep(0.05)
            request.transport.abort()
        return response


def stream(events: bytes, *, piece: int = 7, cut: bool = False, stall_s: float = 0) -> Played:
    """Return a stream that arrives in small pieces."""
    return Played(events, content_type="text/event-stream", piece=piece, cut=cut, stall_s=stall_s)
