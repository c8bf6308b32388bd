"""Watch the suite's memory with many slow clients: `python -m bench.slow_clients`.

Each client opens a stream of an answer that would go on for megabytes, and reads a few kilobytes a
second of it. The provider sends as fast as it may. What the parts hold must level off, whatever the
answers still have to say.
"""

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.suite import ROOT, Running, memory_megabytes, suite

CHUNKS = 60_000
"""Events of an answer, some 180 bytes each."""


@contextmanager
def _upstream() -> Iterator[int]:
    command = [sys.executable, "-m", "bench.model_upstream"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def _client(running: Running, context: ssl.SSLContext, pause_s: float) -> int:
    """Read a stream slowly until cancelled; return at once when there is none."""
    url = urlsplit(running.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context, limit=4096)
    body = json.dumps(
        {
            "model": "bench",
            "stream": True,
            "x-chunks": CHUNKS,
            "x-pause-us": 0,
            "messages": [{"role": "user", "content": "Tell me of a loom."}],
        },
        separators=(",", ":"),
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.hostname}\r\n"
        f"authorization: Bearer {running.api_key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    status = int((await reader.readline()).split()[1])
    try:
        while status == 200 and await reader.read(2048):  # noqa: PLR2004 - OK
            await asyncio.sleep(pause_s)
    finally:
        writer.transport.abort()
    return status


async def _watch(running: Running, count: int, seconds: float, console: Console) -> None:
    context = ssl.create_default_context(cafile=str(running.ca))
    names = {pid: name for name, pid in running.pids.items()}
    table = Table(title=f"Resident memory in MB, {count} slow clients")
    table.add_column("after")
    for name in ("streams", *names.values()):
        table.add_column(name, justify="right")

    def row(label: str, clients: list[asyncio.Task[int]]) -> None:
        alive = sum(not client.done() for client in clients)
        sizes = (f"{memory_megabytes(pid):.0f}" for pid in names)
        table.add_row(label, str(alive), *sizes)

    row("start", [])
    clients: list[asyncio.Task[int]] = []
    for number in range(count):
        clients.append(asyncio.create_task(_client(running, context, 1.0)))
        if number % 25 == 24:  # noqa: PLR2004 - connect in small groups
            await asyncio.sleep(0.1)
    started = time.monotonic()
    while (spent := time.monotonic() - started) < seconds:
        row(f"{spent:.0f} s", clients)
        await asyncio.sleep(seconds / 8)
    row(f"{seconds:.0f} s", clients)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await asyncio.sleep(2)
    row("left", clients)
    console.print(table)


def main() -> None:
    """Watch."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=500, help="streams at once (500)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--topology", default="separate", choices=["up", "separate"])
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with _upstream() as port:
        provider = {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "bench",
            "WEAVER_MODEL_ENDPOINT": f"http://127.0.0.1:{port}/v1",
        }
        with suite(options.topology, provider) as running:
            asyncio.run(_watch(running, options.clients, options.seconds, console))


if __name__ == "__main__":
    main()
