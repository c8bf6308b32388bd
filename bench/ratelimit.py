"""Measure the limiter alone: `python -m bench.ratelimit`.

It starts Valkey and one limiter process and asks it over gRPC from a third, all on this machine:
single decisions and batches, all for one caller and spread over a million. Requests are made before
the clock starts, and the client is a lean one, since it shares the machine with what it measures.
Every decision is a real one: a script call in the store.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop

from bench.grpc_client import connect
from bench.suite import ROOT, cpu_seconds, free_ports
from services.cli import programs
from services.common.valkey import Address, open_connection
from weaver.common.v1 import identity_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb

METHOD = "/weaver.ratelimit.v1.RateLimitService/"
PEER = {"x-weaver-peer": "gateway", "grpc-timeout": "5S"}
IN_FLIGHT = {1: 16, 128: 4}
MILLION = 1_000_000
ACTIVE = 50_000
IDLE_S = 3
PATIENCE_S = 5.0
MEMORY = ("--maxmemory", "2gb", "--maxmemory-policy", "noeviction")


@contextmanager
def servers(directory: Path) -> Iterator[tuple[str, Path, list[int]]]:
    """Run a store and a limiter; yield the limiter's address, the store's socket, their pids."""
    socket = directory / "valkey.sock"
    (port,) = free_ports(1)
    store = subprocess.Popen(
        [programs.valkey(), "--port", "0", "--unixsocket", socket, "--save", "", *MEMORY],
        stdout=subprocess.DEVNULL,
    )
    environment = {
        **os.environ,
        "WEAVER_STATE_DIR": str(directory),
        "WEAVER_MTLS_ENABLED": "false",
        "WEAVER_RATELIMIT_LISTEN": f"127.0.0.1:{port}",
        "WEAVER_RATELIMIT_METRICS_LISTEN": "",
        "WEAVER_RATELIMIT_RPS": "1000000",
        "WEAVER_RATELIMIT_BURST": "1000000",
        "WEAVER_RATELIMIT_TOKENS_PER_MINUTE": "1000000000",
        "WEAVER_RATELIMIT_STORE_TIMEOUT_MS": "1000",
        "WEAVER_RATELIMIT_ON_STORE_FAILURE": "deny",
        "WEAVER_AUDIT_ADDRESS": "",
        "REDIS_UNIX_SOCKET": str(socket),
        "LOG_LEVEL": "ERROR",
    }
    while not socket.exists():
        time.sleep(0.01)
    limiter = subprocess.Popen(
        [sys.executable, "-m", "services.ratelimit"], cwd=ROOT, env=environment
    )
    try:
        yield f"127.0.0.1:{port}", socket, [limiter.pid, store.pid]
    finally:
        for process in (limiter, store):
            process.send_signal(signal.SIGKILL)
            process.wait()


def request(callers: int, tokens: int = 0) -> pb.ReserveRequest:
    """Return a reservation for one of so many callers."""
    subject = f"key-{random.randrange(callers)}"  # noqa: S311 - only spreads load
    principal = identity_pb2.Principal(tenant="acme", issuer="apikey", subject=subject)
    return pb.ReserveRequest(reservation_id=os.urandom(16), principal=principal, tokens=tokens)


async def measure(address: str, batch: int, callers: int, seconds: float) -> dict[str, Any]:
    """Return rate and times of decisions in batches of a size, spread over so many callers."""
    connection = await connect(address)
    head = connection.head(METHOD + ("Reserve" if batch == 1 else "BatchReserve"), PEER)
    kind: Any = pb.ReserveResponse if batch == 1 else pb.BatchReserveResponse
    times: list[float] = []

    def made() -> bytes:
        if batch == 1:
            return request(callers).SerializeToString()
        items = [request(callers) for _ in range(batch)]
        return pb.BatchReserveRequest(requests=items).SerializeToString()

    ready = [made() for _ in range(int(seconds * (9_000 if batch == 1 else 60_000 / batch)))]
    end = time.perf_counter() + seconds

    async def ask() -> None:
        while ready and time.perf_counter() < end:
            started = time.perf_counter()
            answer = await connection.call(head, ready.pop())
            times.append(time.perf_counter() - started)
            if len(times) % 500 == 1:
                _check(kind.FromString(answer))

    began = time.perf_counter()
    async with asyncio.timeout(seconds + PATIENCE_S):
        await asyncio.gather(*(ask() for _ in range(IN_FLIGHT[batch])))
    elapsed = time.perf_counter() - began
    connection.close()
    cuts = statistics.quantiles(times, n=100)
    return {
        "batch": batch,
        "callers": callers,
        "decisions": len(times) * batch,
        "decisions_per_second": round(len(times) * batch / elapsed),
        "p50_ms": round(cuts[49] * 1000, 2),
        "p99_ms": round(cuts[98] * 1000, 2),
    }


def _check(response: Any) -> None:  # noqa: ANN401 - of either kind
    one = response.responses[0] if hasattr(response, "responses") else response
    if one.verdict != pb.VERDICT_ADMITTED or one.source != pb.SOURCE_STORE:
        sys.exit(f"not a decision of the store: {one}")


async def memory(address: str, socket: Path) -> dict[str, Any]:
    """Return the store's memory for an active caller, and for one that has gone idle."""
    connection = await open_connection(Address(unix_socket=socket), timeout_s=10)

    async def used() -> int:
        (reply,) = await connection.exchange([("INFO", "memory")])
        text = reply.decode() if isinstance(reply, bytes) else str(reply)
        return int(text.split("used_memory:")[1].split("\r\n")[0])

    before = await used()
    await _fill(address, "active", 60)
    active = await used()
    await connection.exchange([("FLUSHALL",)])
    await _fill(address, "idle", 1)
    await asyncio.sleep(IDLE_S)
    (left,) = await connection.exchange([("KEYS", "wrl:{*}")])
    connection.close("done")
    idle = [key for key in left if b"replicas" not in key] if isinstance(left, list) else []
    return {
        "bytes_per_active_caller": round((active - before) / ACTIVE),
        "keys_of_idle_callers": len(idle),
    }


async def _fill(address: str, name: str, time_to_live_s: int) -> None:
    """Reserve once for each of many callers."""
    connection = await connect(address)
    head = connection.head(METHOD + "BatchReserve", PEER)
    for start in range(0, ACTIVE, 500):
        items = [request(1, tokens=500) for _ in range(500)]
        for number, item in enumerate(items):
            item.principal.subject = f"{name}-{start + number}"
            item.time_to_live.seconds = time_to_live_s
        await connection.call(head, pb.BatchReserveRequest(requests=items).SerializeToString())
    connection.close()


async def run(
    seconds: float, socket: Path, address: str, pids: Sequence[int]
) -> list[dict[str, Any]]:
    """Measure every case."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
    results = [await memory(address, socket)]
    for batch in IN_FLIGHT:
        for callers in (1, MILLION):
            before = [cpu_seconds(pid) for pid in pids]
            result = await measure(address, batch, callers, seconds)
            took = [cpu_seconds(pid) - start for pid, start in zip(pids, before, strict=True)]
            decisions = result.pop("decisions")
            result["limiter_us"] = round(took[0] / decisions * MILLION, 1)
            result["store_us"] = round(took[1] / decisions * MILLION, 1)
            results.append(result)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each case")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="weaver-bench-") as directory,
        servers(Path(directory)) as (address, socket, pids),
    ):
        results = uvloop.run(run(arguments.seconds, socket, address, pids))
    for result in results:
        if arguments.json:
            print(json.dumps(result))
        else:
            print("  ".join(f"{name} {value:,}" for name, value in result.items()))


if __name__ == "__main__":
    main()
