"""Measure the suite: `python -m bench`, or `make bench` (`make bench-compare` with other gateways).

Rounds of all cases are interleaved, so that a slow minute of the machine hits every case; tables
show medians and ranges. Raw results go to `build/bench.json`, from which `python -m bench.report`
writes `docs/benchmarks.md`. The load comes from wrk, on the same machine: what it takes is not
available to the suite, and is part of every figure.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import machine, rivals
from bench.pace import Pace, pace
from bench.subject import PACED, STREAM, UNARY, Sample, Subject, measure, weaver
from bench.suite import ROOT, suite, upstream, vendors

RAW = ROOT / "build" / "bench.json"
TOPOLOGIES = {
    "up": "Weaver",
    "workers": "Weaver, two gateways",
    "separate": "Weaver, separate processes",
}
WITHOUT: Mapping[str, Mapping[str, str]] = {
    "without redaction": {"WEAVER_PII_REDACT": "false"},
    "without metrics": {
        f"WEAVER_{name}_METRICS_LISTEN": "" for name in ("GATEWAY", "RATELIMIT", "MODEL", "AUDIT")
    },
    "with an access log": {"LOG_LEVEL": "INFO"},
}
"""One thing at a time, switched off or on, so that its cost shows."""
STREAMS = 100


def main() -> None:
    """Run the rounds."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("bench: the load generator wrk is missing: apt-get install wrk, or build it.")
    if options.compare:
        rivals.install()
    console = Console(width=None if sys.stdout.isatty() else 132)
    samples: list[Sample] = []
    paces: list[Pace] = []
    with ExitStack() as stack:
        fast = stack.enter_context(upstream())
        slow = f"http://127.0.0.1:{stack.enter_context(vendors())}"
        upstreams = {UNARY: f"{fast}/v1", STREAM: f"{fast}/stream/v1", PACED: f"{slow}/v1"}
        subjects = _subjects(options, stack, upstreams)
        modes: dict[str, list[str]] = {}
        for subject in subjects:
            subject.answer(UNARY)
            subject.facts["idle_mb"] = sum(subject.memory_mb().values())
            modes[subject.name] = [mode for mode in options.modes if _works(subject, mode)]
            for mode in modes[subject.name]:
                measure(subject, mode, 4, 1)
        direct = Subject("the provider", slow, {}, _models(), dict)
        start = time.monotonic()
        for number in range(options.rounds):
            for subject in subjects:
                samples += [
                    measure(subject, mode, connections, options.seconds)
                    for mode in modes[subject.name]
                    for connections in options.connections
                ]
            if STREAM in options.modes:
                able = [subject for subject in subjects if STREAM in modes[subject.name]]
                paces += [pace(subject, STREAMS) for subject in (direct, *able)]
            spent = time.monotonic() - start
            console.print(
                f"round {number + 1} of {options.rounds} after {spent:.0f} s", style="dim"
            )
        facts = {subject.name: subject.facts for subject in subjects}
    RAW.parent.mkdir(exist_ok=True)
    raw = {
        "machine": machine.describe(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "facts": facts,
        "samples": [asdict(sample) for sample in samples],
        "paces": [asdict(one) for one in paces],
    }
    path = Path(options.raw)
    path.write_text(json.dumps(raw, indent=1))
    show(samples, paces, facts, console)
    console.print(f"raw results: {path}")


def _works(subject: Subject, mode: str) -> bool:
    """Try a mode; a rival that cannot do it on this machine is left out, and that is said."""
    try:
        subject.answer(mode)
    except urllib.error.HTTPError as error:
        if subject.name.startswith("Weaver"):
            raise
        print(f"{subject.name} answers {mode} with HTTP {error.code}: left out", flush=True)
        return False
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of all cases (5)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of one run (5)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--modes", nargs="+", default=[UNARY, STREAM], choices=[UNARY, STREAM])
    parser.add_argument("--topologies", nargs="*", default=list(TOPOLOGIES), choices=TOPOLOGIES)
    parser.add_argument(
        "--providers", nargs="+", default=["loopback"], choices=["stub", "loopback"]
    )
    parser.add_argument(
        "--without", action="store_true", help="also with one thing changed at a time"
    )
    parser.add_argument("--compare", action="store_true", help="also LiteLLM and Portkey")
    parser.add_argument("--raw", default=str(RAW), help="where raw results go")
    return parser.parse_args()


def _models(provider: str = "loopback") -> dict[str, str]:
    if provider == "stub":
        return dict.fromkeys((UNARY, STREAM, PACED), "stub-model")
    return {UNARY: "bench", STREAM: "bench-stream", PACED: "bench-paced"}


def _subjects(
    options: argparse.Namespace, stack: ExitStack, upstreams: Mapping[str, str]
) -> list[Subject]:
    subjects = []
    for topology in options.topologies:
        for provider in options.providers:
            name = TOPOLOGIES[topology] + (", stub" if provider == "stub" else "")
            settings = _settings(stack, upstreams) if provider != "stub" else {}
            if topology == "workers":
                settings |= {"WEAVER_GATEWAY_WORKERS": "2"}
            subjects.append(_weaver(stack, name, topology, provider, settings))
    if options.without:
        for what, change in WITHOUT.items():
            settings = {**_settings(stack, upstreams), **change}
            subjects.append(_weaver(stack, f"Weaver {what}", "up", "loopback", settings))
    if options.compare:
        subjects += [
            stack.enter_context(rivals.litellm(1, upstreams)),
            stack.enter_context(rivals.litellm(2, upstreams)),
            stack.enter_context(rivals.portkey(upstreams)),
        ]
    return subjects


def _weaver(
    stack: ExitStack, name: str, topology: str, provider: str, settings: Mapping[str, str]
) -> Subject:
    running = stack.enter_context(suite(topology, dict(settings)))
    subject = weaver(name, running, _models(provider))
    began = time.monotonic()
    subject.answer(UNARY)
    subject.facts["start_s"] = running.ready_s + time.monotonic() - began
    return subject


def _settings(stack: ExitStack, upstreams: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a suite with one provider for each mode."""
    routes = stack.enter_context(_file())
    names = _models()
    providers = {
        names[mode]: {"kind": "openai", "endpoint": url} for mode, url in upstreams.items()
    }
    models = {
        name: {"targets": [{"provider": name, "model": name}], "context_tokens": 8192}
        for name in providers
    }
    # JSON is YAML.
    routes.write_text(json.dumps({"version": 1, "providers": providers, "models": models}))
    return {"WEAVER_MODEL_ROUTES_FILE": str(routes)}


@contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="weaver-bench-") as folder:
        yield Path(folder) / "routes.yaml"


def show(
    samples: Sequence[Sample],
    paces: Sequence[Pace],
    facts: Mapping[str, Mapping[str, float]],
    console: Console,
) -> None:
    """Print the machine, the versions, and tables of medians."""
    console.print(machine.describe())
    speed = Table(title="TLS and everything on, unless it says otherwise: medians (ranges)")
    cost = Table(title="Processor time per request in ms, and resident memory in MB: medians")
    for heading in ("what", "mode", "connections"):
        speed.add_column(heading)
        cost.add_column(heading)
    for heading in ("answers/s", "p50 ms", "p99 ms", "not 200"):
        speed.add_column(heading, justify="right")
    for heading in ("CPU", "of which", "memory"):
        cost.add_column(heading, justify="right")
    for case in dict.fromkeys(sample.case for sample in samples):
        rows = [sample for sample in samples if sample.case == case]
        called = (case[0], case[1], str(case[2]))
        speed.add_row(
            *called,
            _spread([row.requests_per_second for row in rows], 0),
            _spread([row.p50_ms for row in rows], 2),
            _spread([row.p99_ms for row in rows], 1),
            str(sum(row.refused for row in rows)),
        )
        shares = {
            part: statistics.median(row.cpu_ms_per_request.get(part, 0.0) for row in rows)
            for part in rows[0].cpu_ms_per_request
        }
        cost.add_row(
            *called,
            f"{sum(shares.values()):.2f}",
            ", ".join(f"{part} {share:.2f}" for part, share in shares.items()),
            f"{statistics.median(sum(row.memory_mb.values()) for row in rows):.0f}",
        )
    console.print(speed)
    console.print(cost)
    if paces:
        streams = Table(title="One stream at a time, an event each 2 ms: medians (ranges), in ms")
        for heading in ("what", "first event", "each event after it left"):
            streams.add_column(heading, justify="left" if heading == "what" else "right")
        for name in dict.fromkeys(one.subject for one in paces):
            of_it = [one for one in paces if one.subject == name]
            streams.add_row(
                name,
                _spread([one.first_ms for one in of_it], 2),
                _spread([one.chunk_ms for one in of_it], 2),
            )
        console.print(streams)
    for name, known in facts.items():
        console.print(
            f"{name}: first answer {known.get('start_s', 0):.1f} s after the command, "
            f"{known.get('idle_mb', 0):.0f} MB then"
        )


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


if __name__ == "__main__":
    main()
