"""Measure the model service alone: `python -m bench.model`, or `make bench-model`.

The service runs in this process behind a local channel, as in `weaver up`; the provider is a
process of its own that costs next to nothing. What a bare client needs for the same calls is
measured the same way and subtracted: the rest is what the service adds. CPU is this process's, so
it contains the HTTP client, and next to nothing of the load.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import uvloop
from rich.console import Console
from rich.table import Table

from bench.suite import ROOT, vendors
from services.common.local import LocalChannel
from services.common.settings import load
from services.model.settings import ModelSettings
from services.model.wiring import build
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

BODY = b'{"model":"bench","messages":[{"role":"user","content":"Tell me of a loom and a river."}]}'
_AT = re.compile(rb'"at":(\d+)')
_BLOCK = 65536


@dataclass(frozen=True)
class Figures:
    """What one run came to: milliseconds each, and processor time of this process."""

    p50_ms: float
    p99_ms: float
    per_second: float
    cpu_ms: float


class Bare:
    """Speaks HTTP/1.1 with nothing around it: the least that a call can cost."""

    def __init__(self, port: int) -> None:
        """Take the provider's port."""
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self, body: bytes = BODY) -> AsyncIterator[bytes]:
        """Yield the pieces of an answer."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)
        length = re.search(rb"content-length: (\d+)", await reader.readuntil(b"\r\n\r\n"))
        if length is not None:
            yield await reader.readexactly(int(length[1]))
        while length is None:
            piece = await reader.read(_BLOCK)
            yield piece
            if piece.endswith(b"0\r\n\r\n"):
                break
        self._idle.append((reader, writer))

    async def unary(self) -> None:
        """Make one call."""
        async for _ in self.call():
            pass


class Service:
    """The model service behind a local channel."""

    def __init__(self, stub: Any) -> None:  # noqa: ANN401 - generated stubs have no types here
        """Take the stub."""
        self._stub = stub

    async def unary(self) -> None:
        """Make one call."""
        await self._stub.Generate(_request(BODY), timeout=30)

    async def call(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield the pieces of a streamed answer."""
        request = pb.GenerateStreamRequest(request=_request(body))
        async for step in self._stub.GenerateStream(request):
            yield step.chunk.body


async def unary(act: Callable[[], Awaitable[None]], concurrent: int, seconds: float) -> Figures:
    """Make calls for so long, so many at once."""
    took: list[float] = []

    async def one() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            await act()
            took.append(time.perf_counter() - started)

    await act()
    cpu, begun = time.process_time(), time.perf_counter()
    end = begun + seconds
    await asyncio.gather(*(one() for _ in range(concurrent)))
    return _figures(took, time.perf_counter() - begun, time.process_time() - cpu)


async def stream(act: Callable[[bytes], AsyncIterator[bytes]], chunks: int, us: int) -> Figures:
    """Read one stream; times are from a chunk's departure to its arrival."""
    late: list[float] = []
    body = BODY[:-1] + b',"stream":true,"x-chunks":%d,"x-pause-us":%d}' % (chunks, us)
    cpu, begun = time.process_time(), time.perf_counter()
    async for piece in act(body):
        now = time.monotonic_ns()
        late += [(now - int(at)) / 1e9 for at in _AT.findall(piece)]
    return _figures(late, time.perf_counter() - begun, time.process_time() - cpu)


def _figures(seconds: list[float], wall_s: float, cpu_s: float) -> Figures:
    cuts = statistics.quantiles(seconds, n=100)
    count = len(seconds)
    return Figures(cuts[49] * 1e3, cuts[98] * 1e3, count / wall_s, cpu_s / count * 1e3)


def _request(body: bytes) -> pb.GenerateRequest:
    dialect = pb.DIALECT_OPENAI_CHAT
    return pb.GenerateRequest(request_id="bench", dialect=dialect, model="bench", body=body)


@asynccontextmanager
async def _service(port: int) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        settings = load(
            ModelSettings,
            mtls_enabled=False,
            audit_address="",
            provider="openai",
            model_name="bench",
            endpoint=f"http://127.0.0.1:{port}/v1",
            api_key="sk-bench",
        )
        component = await build(settings, stack)
        channel = LocalChannel("gateway")
        component.register(channel)
        yield Service(model_service_pb2_grpc.ModelServiceStub(cast("Any", channel)))


async def _measure(port: int, seconds: float, rounds: int, console: Console) -> dict[str, Any]:
    bare = Bare(port)
    cases: dict[str, list[tuple[Figures, Figures]]] = {}
    async with _service(port) as service:
        for _ in range(rounds):
            for number in (1, 16, 64):
                pair = (
                    await unary(service.unary, number, seconds),
                    await unary(bare.unary, number, seconds),
                )
                cases.setdefault(f"unary, {number} at once", []).append(pair)
            for name, chunks, us in (("paced", 300, 2000), ("as fast as can be", 20_000, 0)):
                pair = (
                    await stream(service.call, chunks, us),
                    await stream(bare.call, chunks, us),
                )
                cases.setdefault(f"stream, {name}", []).append(pair)
    table = Table(title="The model service: added to a bare client's figures; medians of rounds")
    for heading in ("case", "added p50 ms", "added p99 ms", "CPU ms", "a second", "bare p50 ms"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    found: dict[str, Any] = {}
    for name, pairs in cases.items():
        row = {
            "added_p50_ms": statistics.median(a.p50_ms - b.p50_ms for a, b in pairs),
            "added_p99_ms": statistics.median(a.p99_ms - b.p99_ms for a, b in pairs),
            "cpu_ms": statistics.median(a.cpu_ms for a, _ in pairs),
            "per_second": statistics.median(a.per_second for a, _ in pairs),
            "bare_p50_ms": statistics.median(b.p50_ms for _, b in pairs),
        }
        found[name] = row
        digits = {"per_second": 0}
        table.add_row(name, *(f"{value:,.{digits.get(key, 3)}f}" for key, value in row.items()))
    console.print(table)
    return found


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of one run (2)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with vendors() as port:
        found = uvloop.run(_measure(port, options.seconds, options.rounds, console))
    raw = ROOT / "build" / "bench-model.json"
    raw.parent.mkdir(exist_ok=True)
    raw.write_text(json.dumps(found, indent=1))
    console.print(f"raw results: {raw.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
