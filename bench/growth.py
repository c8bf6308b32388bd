"""How the cost of a request grows with its prompt: `python -m bench.growth`.

One client at a time, prompts of 1 KB to 10 MB, through Envoy with everything on; the same prompts
with redaction off, so that the share of the search shows. How cost grows with callers is
`python -m bench.ratelimit`'s to say, with the log `python -m bench.audit`'s.
"""

import argparse
import http.client
import json
import ssl
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench import machine
from bench.subject import UNARY, Subject, weaver
from bench.suite import suite, upstream

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
_WORDS = "The loom stands by the river, and the weaver counts her threads by lamplight. "
_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "everything on": {},
    "without redaction": {"WEAVER_PII_REDACT": "false"},
}


def cost(subject: Subject, size: int, seconds: float) -> tuple[float, float]:
    """Return the median time and the processor time of a request, both in ms."""
    url = urlsplit(subject.url)
    assert url.hostname is not None  # noqa: S101 - an address of ours
    context = ssl.create_default_context(cafile=str(subject.ca))
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=60, context=context)
    body = subject.body(UNARY, (_WORDS * (size // len(_WORDS) + 1))[:size])
    taken: list[float] = []
    before = sum(subject.cpu_s().values())
    end = time.monotonic() + seconds
    while time.monotonic() < end or not taken:
        began = time.monotonic()
        connection.request("POST", "/v1/chat/completions", body, subject.sent(UNARY))
        response = connection.getresponse()
        answer = response.read()
        assert response.status == http.client.OK, answer[:500]  # noqa: S101 - nothing to measure
        taken.append(1000 * (time.monotonic() - began))
    spent = 1000 * (sum(subject.cpu_s().values()) - before)
    connection.close()
    return statistics.median(taken), spent / len(taken)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all sizes (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of one run (2)")
    parser.add_argument("--json", action="store_true", help="print raw results instead")
    options = parser.parse_args()
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        base = stack.enter_context(upstream())
        provider = {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "bench",
            "WEAVER_MODEL_ENDPOINT": f"{base}/v1",
            "WEAVER_MODEL_API_KEY": "sk-bench",
        }
        subjects = [
            weaver(name, stack.enter_context(suite("up", {**provider, **change})), {UNARY: "bench"})
            for name, change in _SETTINGS.items()
        ]
        for _ in range(options.rounds):
            for subject in subjects:
                for size in SIZES:
                    found.setdefault((subject.name, size), []).append(
                        cost(subject, size, options.seconds)
                    )
    if options.json:
        rows = [{"what": name, "bytes": size, "runs": runs} for (name, size), runs in found.items()]
        print(json.dumps({"machine": machine.describe(), "rows": rows}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(machine.describe())
    table = Table(title="One request at a time: medians (lowest to highest), in ms")
    for heading in ("what", "prompt", "p50", "processor time"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    for (name, size), runs in found.items():
        times, costs = zip(*runs, strict=True)
        table.add_row(name, f"{size:,} B", _spread(times), _spread(costs))
    console.print(table)


def _spread(values: tuple[float, ...]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


if __name__ == "__main__":
    main()
