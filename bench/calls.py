"""How many calls of functions one request takes: `python -m bench.calls [--set]`.

Seconds say little on a shared machine; calls are the same everywhere. One client sends requests one
after the other through Envoy while the whole suite is profiled, for whole answers and for streams.
More than a twentieth above `bench/calls.json` is a failure: find out what became dearer, or, when
it is worth it, say so with `--set`.
"""

import argparse
import cProfile
import http.client
import json
import os
import pstats
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from bench.subject import STREAM, UNARY, Subject, weaver
from bench.suite import ROOT, suite

BUDGET = ROOT / "bench" / "calls.json"
SLACK = 0.05
REQUESTS = 200
_PROFILED = "profiled"


def profiled(into: Path, arguments: Sequence[str]) -> None:
    """Be `weaver`, counting between SIGUSR1 and SIGUSR2; counts go to a file."""
    profile = cProfile.Profile()

    def stop(*_: object) -> None:
        profile.disable()
        draft = into.with_suffix(".new")
        profile.dump_stats(draft)
        draft.rename(into)

    signal.signal(signal.SIGUSR1, lambda *_: profile.enable())
    signal.signal(signal.SIGUSR2, stop)
    sys.argv = ["weaver", *arguments]
    from services.cli.__main__ import main as be_weaver  # noqa: PLC0415 - only in that process

    be_weaver()


def count(mode: str) -> float:
    """Return the calls of one request."""
    with tempfile.TemporaryDirectory(prefix="weaver-bench-") as folder:
        into = Path(folder) / "counted"
        launcher = ["-m", "bench.calls", _PROFILED, str(into)]
        with suite("up", {}, launcher) as running:
            models = dict.fromkeys((UNARY, STREAM), "stub-model")
            subject = weaver("Weaver", running, models)
            _send(subject, mode, 50)
            (pid,) = {pid for part, pid in running.pids.items() if part == "gateway"}
            _signal(pid, signal.SIGUSR1)
            _send(subject, mode, REQUESTS)
            _signal(pid, signal.SIGUSR2)
            deadline = time.monotonic() + 30
            while not into.exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            counted = pstats.Stats(str(into))
    return counted.total_calls / REQUESTS  # type: ignore[attr-defined, no-any-return] # not in the stubs


def main() -> None:
    """Count, and compare with the budget."""
    parser = argparse.ArgumentParser(prog="python -m bench.calls", description=__doc__)
    parser.add_argument("--set", action="store_true", help="take what is counted as the budget")
    options = parser.parse_args()
    counted = {mode: round(count(mode)) for mode in (UNARY, STREAM)}
    if options.set:
        BUDGET.write_text(json.dumps(counted, indent=2) + "\n")
    budget = json.loads(BUDGET.read_text())
    too_many = False
    for mode, calls in counted.items():
        most = budget[mode] * (1 + SLACK)
        verdict = "ok" if calls <= most else f"more than {most:.0f}: see `python -m bench.calls -h`"
        too_many = too_many or calls > most
        print(f"{mode}: {calls} calls a request, budget {budget[mode]}: {verdict}")
    sys.exit(too_many)


def _send(subject: Subject, mode: str, requests: int) -> None:
    url = urlsplit(subject.url)
    assert url.hostname is not None  # noqa: S101 - an address of ours
    context = ssl.create_default_context(cafile=str(subject.ca))
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=context)
    for _ in range(requests):
        connection.request("POST", "/v1/chat/completions", subject.body(mode), subject.sent(mode))
        response = connection.getresponse()
        body = response.read()
        assert response.status == http.client.OK, body  # noqa: S101 - nothing to count
    connection.close()


def _signal(pid: int, number: signal.Signals) -> None:
    time.sleep(0.5)  # what belongs to the requests before has ended
    os.kill(pid, number)


if __name__ == "__main__":
    if sys.argv[1:2] == [_PROFILED]:
        profiled(Path(sys.argv[2]), sys.argv[3:])
    else:
        main()
