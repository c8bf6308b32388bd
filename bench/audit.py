"""Measure the audit log: `python -m bench.audit`, or `make bench-audit`.

The real service in a process of its own, RSA-4096 and Ed25519, over gRPC with mutual TLS; its
clients in another process on the same machine, whose processor time is part of every figure. Rounds
of all cases are interleaved, so that a slow minute of the machine hits every case; the table shows
medians and ranges. Raw results go to `build/bench-audit.json`.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bench.audit_load import Load, Result, run
from bench.suite import ROOT, cpu_seconds, free_ports, memory_megabytes

CLIENTS = 8
START_S = 120.0
GROW_BATCH = 256


class Service(NamedTuple):
    """A running audit service."""

    address: str
    state: Path
    pid: int
    started_s: float


class Case(NamedTuple):
    """One kind of load."""

    name: str
    clients: int
    batch: int
    pause_s: float = 0.0


CASES = (
    Case("one record, idle", 1, 1, pause_s=0.02),
    Case("one by one", CLIENTS, 1),
    Case("batches of 64", CLIENTS, 64),
    Case("batches of 256", CLIENTS, 256),
)


class Sample(NamedTuple):
    """One run of one case: rates per second, times in milliseconds."""

    case: str
    records_per_second: float
    p50_ms: float
    p99_ms: float
    receipt_p50_ms: float
    receipt_p99_ms: float
    cpu_us_per_record: float
    memory_mb: float


@contextlib.contextmanager
def service(state: Path) -> Iterator[Service]:
    """Run the audit service on a state directory and yield it once it answers.

    Raises:
        SystemExit: it did not start, with its own words.
    """
    port, metrics = free_ports(2)
    address = f"127.0.0.1:{port}"
    environment = {
        **os.environ,
        "WEAVER_STATE_DIR": str(state),
        "WEAVER_AUDIT_LISTEN": address,
        "WEAVER_AUDIT_METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "LOG_LEVEL": "WARNING",
    }
    started = time.perf_counter()
    with (state / "said.log").open("a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", "serve", "audit"],
            env=environment,
            cwd=ROOT,
            stdout=said,
            stderr=said,
        )
    try:
        while not (state / "tls" / "gateway.pem").exists() or not _listens(port):
            if process.poll() is not None or time.perf_counter() - started > START_S:
                sys.exit(f"bench: the log did not start:\n{(state / 'said.log').read_text()}")
            time.sleep(0.005)
        yield Service(address, state, process.pid, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(60)


def measure(running: Service, pool: ProcessPoolExecutor, case: Case, seconds: float) -> Sample:
    """Put one kind of load on the log for so long and return what came of it."""
    before = cpu_seconds(running.pid)
    load = Load(
        running.address,
        running.state,
        case.clients,
        case.batch,
        seconds=seconds,
        pause_s=case.pause_s,
        receipts=True,
    )
    result = pool.submit(run, load).result()
    used = cpu_seconds(running.pid) - before
    acknowledged = _percentiles(result.acknowledged)
    receipts = _percentiles(result.receipts)
    return Sample(
        case.name,
        result.records / result.seconds,
        *acknowledged,
        *receipts,
        1e6 * used / max(1, result.records),
        memory_megabytes(running.pid),
    )


def grow(running: Service, pool: ProcessPoolExecutor, records: int) -> Result:
    """Make the log so many records longer."""
    load = Load(running.address, running.state, CLIENTS, GROW_BATCH, records=records)
    return pool.submit(run, load).result()


def measure_size(pool: ProcessPoolExecutor, records: int, console: Console) -> dict[str, float]:
    """Grow a log tenfold up to a size; return memory on the way, and what a start takes then."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="weaver-bench-") as scratch:
        state = Path(scratch)
        with service(state) as running:
            found["first start s"] = running.started_s
            grow(running, pool, records // 10)
            found["memory at a tenth MB"] = memory_megabytes(running.pid)
            result = grow(running, pool, records - records // 10)
            found["memory MB"] = memory_megabytes(running.pid)
            found["records/s while growing"] = result.records / result.seconds
        with service(state) as running:
            found["start s"] = running.started_s
            found["memory after the start MB"] = memory_megabytes(running.pid)
        tree = sum(file.stat().st_size for file in (state / "audit" / "log").rglob("*"))
        found["log MB"] = tree / 1e6
    table = Table(title=f"A log of {records:,} records")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in found.items():
        table.add_row(name, f"{value:,.2f}" if name.endswith(" s") else f"{value:,.0f}")
    console.print(table)
    return found


def show(samples: Sequence[Sample], console: Console) -> None:
    """Print the machine, the versions, and a table of medians."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    parts = ["grpcio", "protobuf", "cryptography", "uvloop"]
    console.print(
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in parts)
    )
    table = Table(title="AppendRecords over gRPC with mutual TLS: medians (ranges)")
    table.add_column("case")
    headings = ("records/s", "ack p50 ms", "p99 ms", "receipt p50 ms", "p99 ms", "CPU us/record")
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in dict.fromkeys(sample.case for sample in samples):
        rows = [sample for sample in samples if sample.case == name]
        table.add_row(
            name,
            _spread([s.records_per_second for s in rows], 0),
            _spread([s.p50_ms for s in rows], 2),
            _spread([s.p99_ms for s in rows], 1),
            _spread([s.receipt_p50_ms for s in rows], 0),
            _spread([s.receipt_p99_ms for s in rows], 0),
            _spread([s.cpu_us_per_record for s in rows], 0),
        )
    console.print(table)


def main() -> None:
    """Run the rounds, then grow a log."""
    parser = argparse.ArgumentParser(prog="python -m bench.audit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases (5)")
    parser.add_argument("--seconds", type=float, default=4, help="seconds of one run (4)")
    parser.add_argument(
        "--records", type=int, default=1_000_000, help="how long a log to grow; 0 for none"
    )
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 132)
    samples: list[Sample] = []
    spawn = multiprocessing.get_context("spawn")
    sizes: dict[str, float] = {}
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with (
            tempfile.TemporaryDirectory(prefix="weaver-bench-") as scratch,
            service(Path(scratch)) as running,
        ):
            measure(running, pool, CASES[-1], 1)
            for number in range(options.rounds):
                samples += [measure(running, pool, case, options.seconds) for case in CASES]
                console.print(f"round {number + 1} of {options.rounds}", style="dim")
        show(samples, console)
        if options.records:
            sizes = measure_size(pool, options.records, console)
    raw = ROOT / "build" / "bench-audit.json"
    raw.parent.mkdir(exist_ok=True)
    rows = [sample._asdict() for sample in samples]
    raw.write_text(json.dumps({"samples": rows, "sizes": sizes}, indent=1))
    console.print(f"raw results: {raw.relative_to(ROOT)}")


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return 0.0, 0.0
    return 1000 * ordered[len(ordered) // 2], 1000 * ordered[int(len(ordered) * 0.99)]


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _listens(port: int) -> bool:
    """Say whether a server listens on a port of this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
