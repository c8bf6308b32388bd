"""How cost grows with managed API keys, 10 to 1,000,000 of them: `python -m bench.api_keys`.

For each number: how long the first request with a key takes and a later one, through Envoy with
everything on and one client at a time; what the gateway's process and the store hold; and how long
a revoked key is accepted still.
"""

import argparse
import asyncio
import http.client
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.subject import UNARY, Subject, weaver
from bench.suite import memory_megabytes, suite
from services.cli import programs
from services.common.valkey import Address
from services.common.valkey_location import Fixed
from services.gateway.apikeys import text
from services.gateway.apikeys.key import ApiKey, Secret, digest_of
from services.gateway.apikeys.valkey_store import ValkeyStore

SIZES = (10, 1_000, 100_000, 1_000_000)
USED = 1_000
"""How many of the keys are used, at most; the gateway remembers a hundred thousand."""

_PART = 2_000
_PATIENCE_S = 30.0
_TIMEOUT_S = 30.0


@contextmanager
def store(folder: Path) -> Iterator[tuple[Path, int]]:
    """Run a store of keys; yield its socket and process id."""
    socket = folder / "keys.sock"
    command = [programs.valkey(), "--port", "0", "--unixsocket", socket, "--save", ""]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL) as process:
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield socket, process.pid
        finally:
            process.kill()


async def fill(socket: Path, count: int) -> list[str]:
    """Make so many keys, past every gateway, and return some of their texts."""
    keys = ValkeyStore(
        Fixed(Address(unix_socket=socket)), timeout_s=_TIMEOUT_S, on_change=lambda *_: None
    )
    await keys.start()
    used: list[str] = []
    now = int(time.time())
    try:
        for start in range(0, count, _PART):
            made = [text.make() for _ in range(min(_PART, count - start))]
            await keys.put_back([_key(one, now) for one in made])
            used += [one.text for one in made[: max(1, USED * len(made) // count)]]
    finally:
        await keys.close()
    return used[:USED]


def _key(made: text.Made, now: int) -> ApiKey:
    secret = Secret(digest_of(made.text).hex(), now)
    return ApiKey(made.id, "acme", "team search", ("user",), (secret,), now, version=now * 1000)


async def revoke(socket: Path, key_text: str) -> None:
    """Disable a key, as an administrator would, past the gateway."""
    keys = ValkeyStore(
        Fixed(Address(unix_socket=socket)), timeout_s=_TIMEOUT_S, on_change=lambda *_: None
    )
    await keys.start()
    try:
        (key,) = await keys.read([text.id_of(key_text)])
        assert isinstance(key, ApiKey)  # noqa: S101 - it was made above
        await keys.write(msgspec.structs.replace(key, disabled=True), expected=key.version)
    finally:
        await keys.close()


class Client:
    """One connection to the front door."""

    def __init__(self, subject: Subject) -> None:
        """See the class."""
        url = urlsplit(subject.url)
        assert url.hostname is not None  # noqa: S101 - an address of ours
        context = ssl.create_default_context(cafile=str(subject.ca))
        self._connection = http.client.HTTPSConnection(url.hostname, url.port, context=context)
        self._body, self._headers = subject.body(UNARY), subject.sent(UNARY)

    def ask(self, key_text: str) -> tuple[int, float]:
        """Return status and milliseconds of a request with a key."""
        began = time.monotonic()
        headers = {**self._headers, "authorization": f"Bearer {key_text}"}
        self._connection.request("POST", "/v1/chat/completions", self._body, headers)
        response = self._connection.getresponse()
        response.read()
        return response.status, 1000 * (time.monotonic() - began)


def measure(count: int) -> dict[str, Any]:
    """Return what was found with so many keys."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weaver-bench-")))
        socket, store_pid = stack.enter_context(store(folder))
        empty_mb = memory_megabytes(store_pid)
        used = asyncio.run(fill(socket, count))
        settings = {"WEAVER_API_KEY_STORE": f"unix://{socket}"}
        running = stack.enter_context(suite("up", settings))
        subject = weaver("Weaver", running, {UNARY: "stub-model"})
        client = Client(subject)
        for _ in range(100):
            client.ask(subject.headers["authorization"].removeprefix("Bearer "))
        before_mb = subject.memory_mb()["suite"]
        random.shuffle(used)
        first = _times(client, used)
        later = _times(client, used)
        after_mb = subject.memory_mb()["suite"]
        asyncio.run(revoke(socket, used[0]))
        revoked = time.monotonic()
        while client.ask(used[0])[0] == http.client.OK:
            assert time.monotonic() - revoked < _PATIENCE_S, "still accepted"  # noqa: S101
        return {
            "keys": count,
            "first_ms": first,
            "later_ms": later,
            "revoked_s": time.monotonic() - revoked,
            "suite_mb": before_mb,
            "suite_grown_mb": after_mb - before_mb,
            "store_mb": memory_megabytes(store_pid) - empty_mb,
        }


def _times(client: Client, used: Sequence[str]) -> list[float]:
    answers = [client.ask(key_text) for key_text in used]
    assert {status for status, _ in answers} == {http.client.OK}, answers[:3]  # noqa: S101
    return [taken for _, taken in answers]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.api_keys", description=__doc__)
    parser.add_argument("--keys", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", action="store_true", help="print raw results instead")
    options = parser.parse_args()
    found = [measure(count) for count in options.keys]
    if options.json:
        print(msgspec.json.encode({"machine": machine.describe(), "rows": found}).decode())
        return
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(machine.describe())
    table = Table(title="Managed API keys: one request at a time")
    for heading in (
        *("keys", "first use p50 ms", "later p50 ms", "revoked within s"),
        *("suite MB", "grown MB", "store MB", "B a key"),
    ):
        table.add_column(heading, justify="right")
    for row in found:
        table.add_row(
            f"{row['keys']:,}",
            f"{statistics.median(row['first_ms']):.2f}",
            f"{statistics.median(row['later_ms']):.2f}",
            f"{row['revoked_s']:.2f}",
            f"{row['suite_mb']:.0f}",
            f"{row['suite_grown_mb']:.1f}",
            f"{row['store_mb']:.1f}",
            f"{1e6 * row['store_mb'] / row['keys']:.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
