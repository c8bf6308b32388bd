"""Anything may die: a writer that is killed at any moment loses nothing that it acknowledged."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.audit.index import Filter
from services.audit.keys.signatures import load_keys
from services.audit.layout import Layout
from services.audit.record import summarise
from services.audit.verification.offline import OfflineLog, published_before
from services.audit.verification.verifier import verify
from tests.fakes.auditlog import quick_keys, running_log

EVERYTHING = Filter()
ROUNDS = 24
WRITER = """
import asyncio, os, sys
from pathlib import Path
from tests.fakes import auditlog

async def main() -> None:
    epoch = int(sys.argv[2])
    keys = {"signing_key": os.environ["TEST_RSA"], "ed25519_key": os.environ["TEST_ED25519"]}
    async with auditlog.running_log(Path(sys.argv[1]), **keys) as running:
        sequence = 0
        print("ready", flush=True)
        while True:
            calls = []
            for size in (1, 7, 40):
                batch = [auditlog.record(sequence + i, epoch=epoch) for i in range(1, size + 1)]
                sequence += size
                calls.append(running.append(batch))
            for indexes in await asyncio.gather(*calls):
                # One write, so that a line is whole or not there.
                os.write(1, ("ack %d %d\\n" % (indexes[0], indexes[-1])).encode())

asyncio.run(main())
"""


def run_until_killed(state: Path, epoch: int, after_s: float) -> list[tuple[int, int]]:
    """Return the index ranges that a writer acknowledged before it was killed."""
    rsa, ed25519 = quick_keys()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(state), str(epoch)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TEST_RSA": rsa, "TEST_ED25519": ed25519},
    )
    assert process.stdout is not None
    while (line := process.stdout.readline()) != "ready\n":
        assert line, "the writer did not start"
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    lines = [line for line in process.stdout if line.startswith("ack ")]
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return [(int(first), int(last)) for _, first, last in map(str.split, lines)]


def test_a_killed_writer_loses_nothing_acknowledged_and_repeats_nothing(tmp_path: Path) -> None:
    chance = random.Random(20_240_601)  # noqa: S311 - moments, not secrets
    acknowledged: dict[int, list[tuple[int, int]]] = {}
    log = tmp_path / "audit" / "log"
    for turn in range(1, ROUNDS + 1):
        acknowledged[turn] = run_until_killed(tmp_path, turn, chance.uniform(0, 0.15))
        if log.joinpath("checkpoint").exists():
            history = published_before(log)
            report = verify(log, load_keys(Layout(log).keys), history=history)
            assert report.findings == [], f"after round {turn}"

    async def start_once_more() -> None:
        async with running_log(tmp_path):
            pass

    asyncio.run(start_once_more())
    report = verify(log, load_keys(Layout(log).keys), history=published_before(log))
    assert report.findings == []
    offline = OfflineLog(log)
    ids = [
        (summary.id.instance, summary.id.epoch, summary.id.sequence)
        for _, entry in offline.find(EVERYTHING, ascending=True)
        for summary in [summarise(entry)]
    ]
    assert len(set(ids)) == len(ids) == offline.size
    total = 0
    for epoch, ranges in acknowledged.items():
        for first, last in ranges:
            assert {(name, at) for name, at, _ in ids[first : last + 1]} == {
                ("gateway-test", epoch)
            }
            numbers = [sequence for _, _, sequence in ids[first : last + 1]]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            total += len(numbers)
    assert total > 1_000
