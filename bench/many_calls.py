"""Watch the model service's memory over many calls: `python -m bench.many_calls`.

The service runs in this process behind a local channel, as in `weaver up`. Half of the calls are
streams, and of the clients one half speaks the provider's dialect and one the other vendor's, so
that answers are translated. What is resident must not grow with the number of calls.
"""

import argparse
import asyncio
import gc
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any, cast

import uvloop
from rich.console import Console
from rich.table import Table

from bench.suite import memory_megabytes, vendors
from services.common.local import LocalChannel
from services.common.settings import load
from services.model.settings import ModelSettings
from services.model.wiring import build
from weaver.model.v1 import model_service_pb2 as pb
from weaver.model.v1 import model_service_pb2_grpc

CONCURRENT = 32
_TIMEOUT_S = 5.0
"""Deadlines are kept until they are over, so that figures level off after as long."""
_BODY = (
    b'{"model":"bench","max_tokens":90,%b"messages":[{"role":"user",'
    b'"content":"Tell me of a loom. x-chunks:20 x-pause-us:0"}]}'
)
_DIALECTS = (pb.DIALECT_OPENAI_CHAT, pb.DIALECT_ANTHROPIC_MESSAGES)


async def _call(stub: Any, number: int) -> None:  # noqa: ANN401 - generated stubs have no types here
    streamed = bool(number & 1)
    request = pb.GenerateRequest(
        request_id=str(number),
        dialect=_DIALECTS[number >> 1 & 1],
        model="bench",
        body=_BODY % (b'"stream":true,' if streamed else b""),
    )
    if not streamed:
        await stub.Generate(request, timeout=_TIMEOUT_S)
        return
    last = None
    async for step in stub.GenerateStream(pb.GenerateStreamRequest(request=request)):
        last = step
    assert last is not None  # noqa: S101 - every stream has an end
    assert not last.end.error, last  # noqa: S101 - and a good one


async def _watch(port: int, provider: str, calls: int, console: Console) -> None:
    settings = load(
        ModelSettings,
        mtls_enabled=False,
        audit_address="",
        provider=provider,
        model_name="bench",
        endpoint=f"http://127.0.0.1:{port}/v1",
        api_key="sk-bench",
    )
    table = Table(title=f"The model service, provider {provider}, {CONCURRENT} calls at once")
    for heading in ("calls", "resident MB", "objects", "calls a second"):
        table.add_column(heading, justify="right")
    async with AsyncExitStack() as stack:
        component = await build(settings, stack)
        channel = LocalChannel("gateway")
        component.register(channel)
        stub = model_service_pb2_grpc.ModelServiceStub(cast("Any", channel))
        part, done = max(CONCURRENT, calls // 10), 0
        while done < calls:
            numbers = iter(range(part))
            started = time.monotonic()

            async def one(mine: Any = numbers) -> None:  # noqa: ANN401 - an iterator of numbers
                for number in mine:
                    await _call(stub, number)

            await asyncio.gather(*(one() for _ in range(CONCURRENT)))
            done += part
            speed = part / (time.monotonic() - started)
            gc.collect()
            resident = memory_megabytes(os.getpid())
            objects = len(gc.get_objects())
            table.add_row(f"{done:,}", f"{resident:.1f}", f"{objects:,}", f"{speed:,.0f}")
    console.print(table)


def main() -> None:
    """Watch."""
    parser = argparse.ArgumentParser(prog="python -m bench.many_calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--provider", default="openai", choices=["openai", "anthropic"])
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with vendors() as port:
        uvloop.run(_watch(port, options.provider, options.calls, console))


if __name__ == "__main__":
    main()
