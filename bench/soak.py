"""Watch the suite's memory under a steady mixed load: `python -m bench.soak [--minutes 30]`.

Whole answers, streams, streams that their client leaves, wrong keys, unknown models and prompts
with personal data, so many a second, through Envoy with everything on. Before that, whole answers
as fast as they come, until what is bounded is full: the audit service remembers the newest 100,000
records of each service, of which a request makes two (20 MB). Exits with 1 when the last
sixth of the time holds a twentieth more memory than the second sixth, or when an answer is not the
one to expect.
"""

import argparse
import asyncio
import collections
import random
import ssl
import statistics
import sys
import time

import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from bench import machine
from bench.subject import PROMPT, STREAM, UNARY, Subject, measure, weaver
from bench.suite import suite

GROWTH = 1.05
"""The most that the last sixth may hold of what the second did."""

_EVERY_S = 10.0
_CLIENTS = 32
_WARM_S = 10.0
_PERSONAL = "Write to jo.doe@example.org or call +1 202 555 0136 about 4111 1111 1111 1111. "
_KINDS = {"whole": 60, "stream": 24, "left": 6, "personal": 6, "wrong key": 2, "no model": 2}
"""What is sent, and how much of it in a hundred."""


async def _send(client: httpx.AsyncClient, subject: Subject, kind: str) -> str:
    """Send one request and return what came of it."""
    mode = STREAM if kind in {"stream", "left"} else UNARY
    headers = subject.sent(mode)
    if kind == "wrong key":
        headers["authorization"] = "Bearer nobody"
    body = subject.body(mode, _PERSONAL + PROMPT if kind == "personal" else PROMPT)
    if kind == "no model":
        body = body.replace(subject.models[mode].encode(), b"nothing-of-the-kind")
    async with client.stream(
        "POST", f"{subject.url}/v1/chat/completions", content=body, headers=headers
    ) as answer:
        if kind == "left":
            await anext(answer.aiter_raw(), None)
            return str(answer.status_code)
        content = await answer.aread()
    cut = kind == "stream" and b"[DONE]" not in content
    return "cut" if cut else str(answer.status_code)


async def _load(
    subject: Subject, rate: float, seconds: float, outcomes: collections.Counter[tuple[str, str]]
) -> None:
    """Send so many requests a second, fewer where answers are slow, and count what came of them."""
    context = ssl.create_default_context(cafile=str(subject.ca))
    limits = httpx.Limits(max_connections=_CLIENTS)
    rng = random.Random(1)  # noqa: S311 - no secret
    kinds, weights = list(_KINDS), list(_KINDS.values())

    async def work(client: httpx.AsyncClient) -> None:
        begin = began
        while (begin := max(begin + _CLIENTS / rate, time.monotonic())) < began + seconds:
            await asyncio.sleep(begin - time.monotonic())
            (kind,) = rng.choices(kinds, weights)
            try:
                outcome = await _send(client, subject, kind)
            except httpx.HTTPError as error:
                outcome = type(error).__name__
            outcomes[kind, outcome] += 1

    async with (
        httpx.AsyncClient(verify=context, limits=limits, timeout=30) as client,
        asyncio.TaskGroup() as group,
    ):
        began = time.monotonic()
        for _ in range(_CLIENTS):
            group.create_task(work(client))
            await asyncio.sleep(1 / rate)


def _warm(subject: Subject, requests: int, console: Console) -> None:
    """Fill what is bounded."""
    sent = 0.0
    while sent < requests:
        sent += _WARM_S * measure(subject, UNARY, _CLIENTS, _WARM_S).requests_per_second
        console.print(f"before: {sent:,.0f} of {requests:,} requests")


async def _watch(
    subject: Subject, rate: float, seconds: float, console: Console
) -> tuple[list[dict[str, float]], collections.Counter[tuple[str, str]]]:
    outcomes: collections.Counter[tuple[str, str]] = collections.Counter()
    load = asyncio.create_task(_load(subject, rate, seconds, outcomes))
    samples: list[dict[str, float]] = []
    began = time.monotonic()
    while not load.done():
        await asyncio.wait([load], timeout=_EVERY_S)
        samples.append(subject.memory_mb())
        minutes = (time.monotonic() - began) / 60
        total = sum(samples[-1].values())
        console.print(f"{minutes:5.1f} min, {outcomes.total():,} requests, {total:.0f} MB")
    await load
    return samples, outcomes


def main() -> None:
    """Watch, print tables, and tell by the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second (60)")
    parser.add_argument("--warm", type=int, default=60_000, help="requests before (60,000)")
    options = parser.parse_args()
    told, console = Console(stderr=True), Console(width=None if sys.stdout.isatty() else 132)
    with suite("up", {}) as running:
        subject = weaver("Weaver", running, dict.fromkeys((UNARY, STREAM), "stub-model"))
        _warm(subject, options.warm, told)
        watched = _watch(subject, options.rate, 60 * options.minutes, told)
        samples, outcomes = uvloop.run(watched)
    sixth = max(1, len(samples) // 6)
    early, late = samples[sixth : 2 * sixth] or samples, samples[-sixth:]
    console.print(machine.describe())
    table = Table(title=f"{outcomes.total():,} requests in {options.minutes:g} minutes: memory, MB")
    for heading in ("process", "second sixth", "last sixth", "most"):
        table.add_column(heading, justify="left" if heading == "process" else "right")
    grown = False
    for sample in samples:
        sample["all"] = sum(sample.values())
    for name in samples[-1]:
        held = [[sample[name] for sample in some] for some in (early, late, samples)]
        before, after = statistics.median(held[0]), statistics.median(held[1])
        grown = grown or after > GROWTH * before
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{max(held[2]):.1f}")
    console.print(table)
    for (kind, outcome), count in sorted(outcomes.items()):
        console.print(f"{kind}: {outcome} {count:,} times")
    expected = {"wrong key": "401", "no model": "404"}
    odd = [case for case in outcomes if case[1] != expected.get(case[0], "200")]
    console.print("grown" if grown else "not grown", "and odd answers" if odd else "")
    sys.exit(bool(grown or odd))


if __name__ == "__main__":
    main()
