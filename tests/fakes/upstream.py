"""A provider on loopback that speaks OpenAI's HTTP API, and misbehaves when it is told to.

In a test's own process: `async with Upstream() as upstream`. As a process of its own:
`python tests/fakes/upstream.py --port 9000`; then `GET /_control` says what it received,
`PUT /_control` sets scripts (`{"default": {...}, "scripts": [{...}]}`), `DELETE /_control` forgets.
It checks no credential and knows no model: it answers whatever it is asked.
"""

import argparse
import asyncio
import base64
import json
import logging
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from aiohttp import web

MAX_BODY = 64 * 1024 * 1024
CUT = web.RequestKey("cut", bool)


@dataclass(frozen=True)
class Script:
    """How one request is answered. The default is a good answer at once.

    Counts of chunks are events of a stream: the role, each word, the finish, the usage.
    """

    status: int = 200
    """The HTTP status; from 400 on the body is an error object unless `body` is set."""
    text: str | None = None
    """The answer's text; without it, the last message's text comes back."""
    finish_reason: str = "stop"
    body: str | None = None
    """The whole body instead of a completion, whatever was asked."""
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """More response headers."""
    delay_s: float = 0
    """Silence before the response headers."""
    chunk_delay_s: float = 0
    """Silence before each chunk but the first, and before the body of an answer."""
    reset: bool = False
    """Close the connection without an answer."""
    stall_after: int | None = None
    """Say nothing more after so many chunks (0: headers alone), until the client leaves."""
    cut_after: int | None = None
    """Cut the connection after so many chunks (0: headers alone)."""
    end_after: int | None = None
    """End the body properly after so many chunks, as if it were whole."""
    garbage_after: int | None = None
    """Send an event that is not JSON after so many chunks."""
    error_after: int | None = None
    """Send an error object as an event after so many chunks."""
    comments: int = 0
    """Keep-alive comments before the first chunk."""
    usage: bool = True
    """Whether tokens are reported."""
    done: bool = True
    """Whether a stream ends with `[DONE]`."""
    header_flood: int = 0
    """So many response headers of a kilobyte each."""
    pad_bytes: int = 0
    """The answer's text is followed by so many letters."""


@dataclass(frozen=True)
class Received:
    """One request as it came off the wire."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    """On this machine's monotonic clock, in seconds."""

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """Return the body, decoded."""
        return json.loads(self.body)


class Upstream:
    """The server. Change `default`, or append to `scripts` for the next requests in order."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        """Take the address to listen on; port 0 is any free one."""
        self.host, self.port = host, port
        self.default = Script()
        self.scripts: deque[Script] = deque()
        self.requests: list[Received] = []
        self.disconnects: list[float] = []
        """When clients left before they were answered, on the monotonic clock."""
        self.connections = 0
        """Connections that were ever opened."""
        self._seen: set[int] = set()
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_get("/_control", self._show)
        app.router.add_put("/_control", self._set)
        app.router.add_delete("/_control", self._forget)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, logger=_quiet(), shutdown_timeout=0.2
        )

    @property
    def base_url(self) -> str:
        """The base URL that an OpenAI client is pointed at."""
        return f"http://{self.host}:{self.port}/v1"

    async def __aenter__(self) -> Self:
        """Listen."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop listening and cut every connection."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if (transport := id(request.transport)) not in self._seen:
            self._seen.add(transport)
            self.connections += 1
        received = Received(
            request.method,
            request.path_qs,
            tuple(request.headers.items()),
            await request.read(),
            time.monotonic(),
        )
        self.requests.append(received)
        script = self.scripts.popleft() if self.scripts else self.default
        async with self._noting_disconnects(request):
            await asyncio.sleep(script.delay_s)
            if script.reset:
                await _cut(request)
            return await _respond(request, received, script)

    @asynccontextmanager
    async def _noting_disconnects(self, request: web.Request) -> AsyncIterator[None]:
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            if CUT not in request:
                self.disconnects.append(time.monotonic())
            raise

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": [
                    {
                        "method": received.method,
                        "path": received.path,
                        "headers": received.headers,
                        "body_base64": base64.b64encode(received.body).decode(),
                        "at": received.at,
                    }
                    for received in self.requests
                ],
                "disconnects": self.disconnects,
                "connections": self.connections,
                "default": asdict(self.default),
                "scripts": [asdict(script) for script in self.scripts],
            }
        )

    async def _set(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        self.default = Script(**wanted.get("default", {}))
        self.scripts = deque(Script(**script) for script in wanted.get("scripts", []))
        return web.json_response({})

    async def _forget(self, _: web.Request) -> web.Response:
        self.requests.clear()
        self.disconnects.clear()
        self.scripts.clear()
        self.default = Script()
        return web.json_response({})


async def _respond(request: web.Request, received: Received, script: Script) -> web.StreamResponse:
    headers = {"x-request-id": "upstream-1", "openai-processing-ms": "7", "set-cookie": "a=b"}
    headers |= script.headers
    headers |= {f"x-flood-{number}": "x" * 1024 for number in range(script.header_flood)}
    asked = _asked(received)
    whole = script.body if script.body is not None else _whole(received.path, asked, script)
    if not asked.get("stream") or script.status != 200 or script.body is not None:
        response = web.StreamResponse(status=script.status, headers=headers)
        response.content_type = script.content_type or "application/json"
        data = whole.encode()
        response.content_length = len(data)
        await response.prepare(request)
        await asyncio.sleep(script.chunk_delay_s)
        if script.stall_after is not None:
            await asyncio.Event().wait()
        if script.cut_after is not None:
            await _cut(request)
        await response.write(data)
        return response
    response = web.StreamResponse(headers=headers)
    response.content_type = script.content_type or "text/event-stream"
    await response.prepare(request)
    await _stream(request, response, asked, script)
    return response


async def _stream(
    request: web.Request, response: web.StreamResponse, asked: Mapping[str, Any], script: Script
) -> None:
    for _ in range(script.comments):
        await response.write(b": keep-alive\n\n")
    for number, data in enumerate([*_events(asked, script), b"[DONE]" if script.done else b""]):
        if number == script.end_after:
            return
        await _misbehave(request, response, number, script)
        if number:
            await asyncio.sleep(script.chunk_delay_s)
        if data:
            await response.write(b"data: " + data + b"\n\n")


async def _misbehave(
    request: web.Request, response: web.StreamResponse, number: int, script: Script
) -> None:
    if number == script.stall_after:
        await asyncio.Event().wait()
    if number == script.cut_after:
        await _cut(request)
    if number == script.garbage_after:
        await response.write(b'data: {"choices": [{"del\n\n')
    if number == script.error_after:
        await response.write(b'data: {"error": {"message": "overloaded", "code": 500}}\n\n')


def _asked(received: Received) -> Mapping[str, Any]:
    try:
        asked = received.json()
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _text(asked: Mapping[str, Any], script: Script) -> str:
    if script.text is not None:
        return script.text + "x" * script.pad_bytes
    messages = asked.get("messages") or [{"content": "nothing"}]
    content = messages[-1].get("content") or ""
    if isinstance(content, list):
        content = " ".join(str(part.get("text", "")) for part in content)
    return f"You said: {content}" + "x" * script.pad_bytes


def _usage(asked: Mapping[str, Any], text: str) -> dict[str, Any]:
    prompt = sum(len(str(message.get("content")).split()) for message in asked.get("messages", []))
    answer = len(text.split())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _whole(path: str, asked: Mapping[str, Any], script: Script) -> str:
    if script.status >= 400:
        error = {"message": f"status {script.status}", "type": "scripted", "param": None}
        return json.dumps({"error": {**error, "code": "scripted"}})
    model = asked.get("model", "none")
    if path.endswith("/models"):
        return json.dumps({"object": "list", "data": [{"id": "upstream-model", "object": "model"}]})
    if path.endswith("/embeddings"):
        texts = asked.get("input", "")
        texts = texts if isinstance(texts, list) else [texts]
        data = [
            {"object": "embedding", "index": index, "embedding": [0.5, -0.25, 1e-05]}
            for index in range(len(texts))
        ]
        tokens = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return json.dumps({"object": "list", "model": model, "data": data, "usage": usage})
    text = _text(asked, script)
    message = {"role": "assistant", "content": text, "refusal": None}
    answer: dict[str, Any] = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion",
        "created": 1700000000,
        "model": model,
        "choices": [
            {"index": index, "message": message, "finish_reason": script.finish_reason}
            for index in range(asked.get("n") or 1)
        ],
    }
    if script.usage:
        answer["usage"] = _usage(asked, text)
    return json.dumps(answer)


def _events(asked: Mapping[str, Any], script: Script) -> list[bytes]:
    text = _text(asked, script)
    with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    frame: dict[str, Any] = {
        "id": "chatcmpl-upstream",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": asked.get("model", "none"),
    }
    if with_usage:
        frame["usage"] = None
    words = [word if number == 0 else f" {word}" for number, word in enumerate(text.split(" "))]
    choices = range(asked.get("n") or 1)
    events = [_choice(frame, index, {"role": "assistant", "content": ""}) for index in choices]
    events += [_choice(frame, index, {"content": word}) for word in words for index in choices]
    events += [_choice(frame, index, {}, script.finish_reason) for index in choices]
    if with_usage and script.usage:
        events.append({**frame, "choices": [], "usage": _usage(asked, text)})
    return [json.dumps(event).encode() for event in events]


def _choice(
    frame: Mapping[str, Any], index: int, delta: Mapping[str, str], finish: str | None = None
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {**frame, "choices": [choice]}


def _quiet() -> logging.Logger:
    """Return a logger for what is meant to happen here: clients that leave."""
    logger = logging.getLogger("tests.fakes.upstream")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger


async def _cut(request: web.Request) -> None:
    transport = cast("asyncio.Transport", request.transport)
    request[CUT] = True
    transport.abort()
    await asyncio.Event().wait()


async def _serve(port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Upstream(port) as upstream:
        print(upstream.base_url, flush=True)  # noqa: T201 - whoever started it reads the address
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server for tests.")
    parser.add_argument("--port", type=int, default=0)
    asyncio.run(_serve(parser.parse_args().port))
