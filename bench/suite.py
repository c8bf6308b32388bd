"""Starts what is measured and reads how much processor time it takes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ANSWER = (
    '{"id":"chatcmpl-bench","object":"chat.completion","created":1700000000,"model":"bench",'
    '"choices":[{"index":0,"message":{"role":"assistant","content":"'
    + "The quick brown fox jumps over the lazy dog. "
    * 9
    + '"},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":31,"completion_tokens":90,"total_tokens":121}}'
)
_CHUNK = (
    'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,'
    '"model":"bench-stream","choices":[{"index":0,"delta":{%s},"finish_reason":%s}]}\n\n'
)
CHUNKS = 20
STREAM = (
    _CHUNK % ('"role":"assistant","content":""', "null")
    + _CHUNK % ('"content":" word"', "null") * CHUNKS
    + _CHUNK % ("", '"stop"')
    + "data: [DONE]\n\n"
)
LISTENS = (
    "WEAVER_FRONT_LISTEN",
    "WEAVER_ENVOY_ADMIN_LISTEN",
    *(f"WEAVER_{name}_LISTEN" for name in ("GATEWAY", "RATELIMIT", "MODEL", "AUDIT")),
    *(f"WEAVER_{name}_METRICS_LISTEN" for name in ("GATEWAY", "RATELIMIT", "MODEL", "AUDIT")),
)


@dataclass(frozen=True)
class Running:
    """A suite under measurement: its URL, CA, key, and the process ids of its parts.

    `ready_s` is how long it took from the command to the line that says so.
    """

    url: str
    ca: Path
    api_key: str
    pids: dict[str, int]
    ready_s: float = 0.0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def environment(state: Path, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment of a suite: free ports, limits that do not bite, the rest default."""
    addresses = {
        name: f"127.0.0.1:{port}"
        for name, port in zip(LISTENS, free_ports(len(LISTENS)), strict=True)
    }
    for name in ("RATELIMIT", "MODEL", "AUDIT"):
        addresses[f"WEAVER_{name}_ADDRESS"] = addresses[f"WEAVER_{name}_LISTEN"]
    return {
        **os.environ,
        **addresses,
        "WEAVER_STATE_DIR": str(state),
        "WEAVER_RATELIMIT_RPS": "1000000",
        "WEAVER_RATELIMIT_BURST": "1000000",
        "LOG_LEVEL": "WARNING",
        **extra,
    }


@contextlib.contextmanager
def suite(
    topology: str, extra: dict[str, str], launcher: Sequence[str] = ("-m", "services.cli")
) -> Iterator[Running]:
    """Run `weaver up` with everything on and yield it when it is ready.

    Args:
        topology: `up` or `separate`.
        extra: further settings.
        launcher: what Python runs as `weaver`.

    Raises:
        SystemExit: it did not start, with its own words.
    """
    with tempfile.TemporaryDirectory(prefix="weaver-bench-") as state:
        command = [sys.executable, *launcher, "up", "--json"]
        said = Path(state) / "said.log"
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, *(["--separate"] if topology == "separate" else [])],
            env=environment(Path(state), extra),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=said.open("w"),
            text=True,
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            line = process.stdout.readline()
            while line and not line.startswith('{"event": "ready"'):
                line = process.stdout.readline()
            if not line:
                sys.exit(f"bench: the suite did not start:\n{said.read_text()}")
            ready: dict[str, Any] = json.loads(line)
            ready_s = time.monotonic() - began
            yield Running(ready["url"], Path(ready["ca"]), ready["api_key"], ready["pids"], ready_s)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


@contextlib.contextmanager
def vendors() -> Iterator[int]:
    """Run a provider that speaks both vendors' APIs and streams as it is told; yield its port."""
    command = [sys.executable, "-m", "bench.model_upstream"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """Run a provider that answers at once, and yield its address; `/stream/v1` streams."""
    from services.cli.programs import envoy  # noqa: PLC0415 - only here

    (port,) = free_ports(1)
    template = Template((ROOT / "bench" / "upstream.yaml").read_text())
    stream = json.dumps(STREAM)  # a string of YAML too
    config = template.substitute(port=port, answer=ANSWER, stream=stream)
    command = [str(envoy()), "--config-yaml", config, "--concurrency", "1", "-l", "off"]
    process = subprocess.Popen(
        [*command, "--use-dynamic-base-id"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_megabytes(pid: int) -> float:
    """Return the resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6
