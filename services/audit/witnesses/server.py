"""Serves a witness over HTTP: `add-checkpoint`, what monitors read, a status page, metrics."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from services.audit.witnesses.witness import MAX_REQUEST, Answer, Witness

_READ_S = 10.0
_MAX_AT_ONCE = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WitnessServer:
    """The HTTP side of a witness.

    Args:
        witness: who answers.
        say: is told of failures, in one line.
    """

    def __init__(self, witness: Witness, say: Callable[[str], None]) -> None:
        """See the class."""
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
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        except OSError:
            await runner.cleanup()
            raise
        return runner.cleanup

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
