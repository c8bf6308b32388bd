"""Serves a witness over HTTP: `add-checkpoint`, what monitors read, a status page, metrics."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from services.audit.witnesses.witness import MAX_REQUEST, Answer, Witness

_READ_S = 10.0
_IDLE_S = 15.0
_LOOK_EVERY_S = 1.0
_MAX_AT_ONCE = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WitnessServer:
    """The HTTP side of a witness.

    Args:
        witness: who answers.
        say: is told of failures, in one line.
        idle_s: how long a connection may stay without a whole request head.
    """

    def __init__(
        self, witness: Witness, say: Callable[[str], None], *, idle_s: float = _IDLE_S
    ) -> None:
        """See the class."""
        self._idle_s = idle_s
        self._answering: set[web.RequestHandler] = set()
        self._idle_since: dict[web.RequestHandler, float] = {}
        self._witness = witness
        self._say = say
        self._room = asyncio.Semaphore(_MAX_AT_ONCE)
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter(
            "witness_requests", "Answers to add-checkpoint.", ["status"], registry=registry
        )
        self._size = Gauge(
            "witness_cosigned_size", "The newest cosigned size.", ["origin"], registry=registry
        )

    async def start(
        self, host: str, port: int, tls: ssl.SSLContext | None
    ) -> Callable[[], Awaitable[None]]:
        """Listen, and return what ends it after the requests under way.

        Raises:
            OSError: the address is taken.
        """
        app = web.Application(client_max_size=MAX_REQUEST + 1)
        app.router.add_post("/add-checkpoint", self._add_checkpoint)
        app.router.add_get("/{origin:[0-9a-f]{64}}/checkpoint", self._checkpoint)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/", self._status)
        app.middlewares.append(self._busy)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError:
            await runner.cleanup()
            raise
        watch = asyncio.create_task(self._close_idle(runner))

        async def end() -> None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await runner.cleanup()

        return end

    @web.middleware
    async def _busy(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, and begin to count its connection's idle time anew."""
        protocol = request.protocol
        self._answering.add(protocol)
        try:
            return await handler(request)
        finally:
            self._answering.discard(protocol)
            self._idle_since.pop(protocol, None)

    async def _close_idle(self, runner: web.AppRunner) -> None:
        """Close connections on which no whole request head comes, however slowly its bytes do."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            server, now = runner.server, asyncio.get_running_loop().time()
            open_now = set() if server is None else set(server.connections)
            for protocol in open_now - self._answering:
                if now - self._idle_since.setdefault(protocol, now) > self._idle_s:
                    protocol.force_close()
            for gone in self._idle_since.keys() - open_now:
                del self._idle_since[gone]

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        try:
            async with self._room:
                async with asyncio.timeout(_READ_S):
                    body = await request.read()
                answer = await asyncio.to_thread(self._witness.add_checkpoint, body)
        except TimeoutError:
            answer = Answer(408, "the request did not arrive in time\n")
        except web.HTTPRequestEntityTooLarge:
            answer = Answer(413, f"a request has at most {MAX_REQUEST} bytes\n")
        except OSError as error:
            self._say(f"the state cannot be written: {error}")
            answer = Answer(503, "the witness cannot store checkpoints now\n")
        self._requests.labels(status=str(answer.status)).inc()
        return _response(answer)

    async def _checkpoint(self, request: web.Request) -> web.Response:
        return _response(self._witness.checkpoint(request.match_info["origin"]))

    async def _status(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        lines = [
            f"{origin} {'-' if size is None else size}\n" for origin, size in self._witness.status()
        ]
        return _response(Answer(200, "".join(lines)))

    async def _metrics(self, request: web.Request) -> web.Response:  # noqa: ARG002 - a handler's signature
        for origin, size in self._witness.status():
            self._size.labels(origin=origin).set(size or 0)
        return web.Response(
            body=generate_latest(self._registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status,
        body=answer.body.encode(),
        headers={"Content-Type": answer.content_type, "Cache-Control": "no-store"},
    )
