"""Watch the suite's memory with many slow clients: `python -m bench.slow_clients`.

Each client opens a stream of an answer that goes on for megabytes, and reads half a kilobyte a
second of it; the provider says twice as much, or with `--pause-us 0` whatever it may. What the
parts hold must level off, whatever the answers still have to say. `--pair anthropic-openai` has the
answers translated on their way.
"""

import argparse
import asyncio
import json
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.suite import Running, memory_megabytes, suite, vendors

CHUNKS = 60_000
"""Events of an answer, some 180 bytes each."""
_READ_EVERY_S = 4.0


@dataclass(frozen=True)
class Pair:
    """A client's dialect, and a provider that speaks the same or the other."""

    client: str
    provider: str

    def request(self, pause_us: int) -> tuple[str, str]:
        """Return the path and body of a stream; what the provider is to do stands in the prompt."""
        prompt = f"Tell me of a loom. x-chunks:{CHUNKS} x-pause-us:{pause_us}"
        body = {
            "model": "bench",
            "stream": True,
            "max_tokens": 4000,
            "messages": [{"role": "user", "content": prompt}],
        }
        path = "/v1/messages" if self.client == "anthropic" else "/v1/chat/completions"
        return path, json.dumps(body, separators=(",", ":"))

    def environment(self, port: int) -> dict[str, str]:
        """Return the settings of a suite whose provider listens on a port of this machine."""
        return {
            "WEAVER_MODEL_PROVIDER": self.provider,
            "WEAVER_MODEL_NAME": "bench",
            "WEAVER_MODEL_ENDPOINT": f"http://127.0.0.1:{port}/v1",
        }


async def _client(
    running: Running, context: ssl.SSLContext, request: tuple[str, str], begun: list[int]
) -> int:
    """Read a stream slowly until cancelled; return at once when there is none."""
    url = urlsplit(running.url)
    # A small window, as over a slow line: on loopback the kernel would swallow megabytes itself.
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    plain.setblocking(False)  # noqa: FBT003 - the kernel's form
    await asyncio.get_running_loop().sock_connect(plain, (url.hostname, url.port))
    reader, writer = await asyncio.open_connection(
        sock=plain, ssl=context, server_hostname=url.hostname, limit=4096
    )
    path, body = request
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {url.hostname}\r\n"
        f"authorization: Bearer {running.api_key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    status = int((await reader.readline()).split()[1])
    begun.append(status)
    try:
        while status == 200 and await reader.read(2048):  # noqa: ASYNC110, PLR2004 - the pace is the point
            await asyncio.sleep(_READ_EVERY_S)
    finally:
        writer.transport.abort()
    return status


async def _watch(
    running: Running, options: argparse.Namespace, seconds: float, console: Console
) -> None:
    context = ssl.create_default_context(cafile=str(running.ca))
    count = options.clients
    request = options.pair.request(options.pause_us)
    names = {pid: name for name, pid in running.pids.items()}
    pair = f"{options.pair.client} at {options.pair.provider}"
    table = Table(title=f"Resident memory in MB, {count} slow clients, {pair}")
    table.add_column("after")
    for name in ("streams", "begun", *names.values()):
        table.add_column(name, justify="right")

    def row(label: str, clients: list[asyncio.Task[int]]) -> None:
        alive = sum(not client.done() for client in clients)
        sizes = (f"{memory_megabytes(pid):.0f}" for pid in names)
        table.add_row(label, str(alive), str(begun.count(200)), *sizes)

    begun: list[int] = []
    row("start", [])
    clients: list[asyncio.Task[int]] = []
    for number in range(count):
        clients.append(asyncio.create_task(_client(running, context, request, begun)))
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


def _pair(text: str) -> Pair:
    client, _, provider = text.partition("-")
    if not {client, provider} <= {"openai", "anthropic"}:
        raise argparse.ArgumentTypeError(text)
    return Pair(client, provider)


def main() -> None:
    """Watch."""
    parser = argparse.ArgumentParser(prog="python -m bench.slow_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=500, help="streams at once (500)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--pause-us", type=int, default=200_000, help="between events (200,000)")
    parser.add_argument("--topology", default="separate", choices=["up", "separate"])
    parser.add_argument(
        "--pair",
        type=_pair,
        default=Pair("openai", "openai"),
        help="dialect of the clients and of the provider: anthropic-openai (openai-openai)",
    )
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with (
        vendors() as port,
        suite(options.topology, options.pair.environment(port)) as running,
    ):
        asyncio.run(_watch(running, options, options.seconds, console))


if __name__ == "__main__":
    main()
