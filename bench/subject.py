"""What is measured: anything that answers OpenAI's chat completions, and what it costs."""

import json
import re
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.suite import CHUNKS, Running, cpu_seconds, memory_megabytes

PROMPT = "Hello there, how are you doing today? Tell me a story about a loom and a river."
UNARY, STREAM, PACED = "unary", "stream", "paced"
_MICROSECONDS = {"us": 1.0, "ms": 1000.0, "s": 1_000_000.0}


@dataclass
class Sample:
    """One run of one case: rates per second, times in milliseconds."""

    subject: str
    mode: str
    connections: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    refused: int
    cpu_ms_per_request: dict[str, float]
    memory_mb: dict[str, float]

    @property
    def case(self) -> tuple[str, str, int]:
        """What was measured."""
        return self.subject, self.mode, self.connections


@dataclass(frozen=True)
class Subject:
    """Something that answers.

    Args:
        name: in tables.
        url: its base, up to `/v1`.
        headers: what a client sends besides the body.
        models: the model to ask for in each mode.
        processes: tells its processes and what they are called, now.
        ca: what vouches for its certificate; None for plain HTTP.
        more: further headers of each mode.
        facts: what is known of it besides.
    """

    name: str
    url: str
    headers: Mapping[str, str]
    models: Mapping[str, str]
    processes: Callable[[], dict[int, str]]
    ca: Path | None = None
    more: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    def sent(self, mode: str) -> dict[str, str]:
        """Return the headers of a request."""
        return {
            "content-type": "application/json",
            **self.headers,
            **self.more.get(mode, {}),
        }

    def body(self, mode: str, prompt: str = PROMPT) -> bytes:
        """Return the request."""
        asked: dict[str, object] = {"model": self.models[mode]}
        if mode != UNARY:
            asked["stream"] = True
        asked["messages"] = [{"role": "user", "content": prompt}]
        return json.dumps(asked, separators=(",", ":")).encode()

    def answer(self, mode: str, timeout_s: float = 60.0) -> None:
        """Make sure that what is going to be measured is a real answer.

        Raises:
            SystemExit: it is not.
        """
        context = ssl.create_default_context(cafile=str(self.ca)) if self.ca else None
        url = f"{self.url}/v1/chat/completions"
        body = self.body(mode)
        request = urllib.request.Request(url, body, self.sent(mode))  # noqa: S310 - our own front door
        with urllib.request.urlopen(request, context=context, timeout=timeout_s) as response:  # noqa: S310
            answer = response.read()
        good = (
            json.loads(answer)["choices"][0]["message"]["content"]
            if mode == UNARY
            else answer.count(b'"content":') >= CHUNKS and b"[DONE]" in answer
        )
        if not good:
            sys.exit(f"bench: {self.name}: not an answer: {answer[:500]!r}")

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of each part."""
        held: dict[str, float] = {}
        for pid, part in self.processes().items():
            held[part] = held.get(part, 0.0) + memory_megabytes(pid)
        return held

    def cpu_s(self) -> dict[str, float]:
        """Return the processor time that each part has used."""
        used: dict[str, float] = {}
        for pid, part in self.processes().items():
            used[part] = used.get(part, 0.0) + cpu_seconds(pid)
        return used


def weaver(name: str, running: Running, models: Mapping[str, str]) -> Subject:
    """Return a suite as a subject."""
    together = len(set(running.pids.values())) < len(running.pids)
    parts = {
        pid: "suite" if together and part == "gateway" else part
        for part, pid in running.pids.items()
    }
    headers = {"authorization": f"Bearer {running.api_key}"}
    return Subject(name, running.url, headers, models, lambda: parts, running.ca)


def until_it_answers(subject: Subject, began: float, patience_s: float) -> float:
    """Wait for the first answer and return how long it took from a moment, in seconds.

    Raises:
        SystemExit: there was none in time.
    """
    last: Exception | None = None
    while time.monotonic() - began < patience_s:
        try:
            subject.answer(UNARY)
        except (OSError, urllib.error.URLError, KeyError) as error:
            last = error
            time.sleep(0.05)
        else:
            return time.monotonic() - began
    sys.exit(f"bench: {subject.name} did not answer within {patience_s:g} s: {last}")


def measure(subject: Subject, mode: str, connections: int, seconds: float) -> Sample:
    """Put load on a subject for so long and return what came of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "POST"\n')
        script.write(f"wrk.body = {json.dumps(subject.body(mode).decode())}\n")
        for name, value in subject.sent(mode).items():
            script.write(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}\n")
        script.flush()
        before = subject.cpu_s()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"),
                *("--timeout", "10s", "-s", script.name, f"{subject.url}/v1/chat/completions"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    text = done.stdout
    requests = max(1, int(_find(r"(\d+) requests in", text)))
    rate = float(_find(r"Requests/sec:\s+([\d.]+)", text))
    refused = int(_find(r"Non-2xx or 3xx responses: (\d+)", text, "0"))
    after = subject.cpu_s()
    return Sample(
        subject.name,
        mode,
        connections,
        rate * (requests - refused) / requests,
        _milliseconds(r"50%\s+([\d.]+)(us|ms|s)", text),
        _milliseconds(r"99%\s+([\d.]+)(us|ms|s)", text),
        refused,
        {part: 1000 * (used - before.get(part, 0.0)) / requests for part, used in after.items()},
        subject.memory_mb(),
    )


def _find(pattern: str, text: str, default: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is not None:
        return match[1]
    if default is None:
        sys.exit(f"bench: wrk printed something else than expected:\n{text}")
    return default


def _milliseconds(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    return 0.0 if match is None else float(match[1]) * _MICROSECONDS[match[2]] / 1000
