"""What the detectors find and miss, and how fast they look: `python -m bench.personal_data`."""

import argparse
import json
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.personal_data_corpus import MAKERS, REGIONS, samples
from services.gateway.personal_data import detector, suspicious
from services.gateway.privacy import REDACT_ALL
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText

CHECKED: Final = ("CARD", "IBAN", "IP_ADDRESS", "NATIONAL_ID", "PHONE", "SSN")
PRECISION, RECALL, MEGABYTES_PER_SECOND = 0.99, 0.98, 50.0
LINES: Final = 10_000
_ROUNDS: Final = 5
_PROSE: Final = (
    "The quarterly report shows that revenue grew while costs stayed flat, and the team expects\\n"
    "more of the same in 2026. "
)


def measure(each: int = 300, *, regional: bool = False) -> dict[str, dict[str, float]]:
    """Return precision and recall by type; `regional` looks for national telephone numbers."""
    find = detector(REGIONS if regional else ()).find
    right: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for sample in samples(each=each, regional=regional):
        raw = sample.text.encode()
        found = [(one.type, raw[one.start : one.end].decode()) for one in find(raw)]
        if sample.type:
            hit = (sample.type, sample.value) in found
            (right if hit else missed)[sample.type] += 1
            if hit:
                found.remove((sample.type, sample.value))
        wrong.update(kind for kind, _ in found)
    return {
        kind: {
            "precision": right[kind] / max(1, right[kind] + wrong[kind]),
            "recall": right[kind] / max(1, right[kind] + missed[kind]),
        }
        for kind in MAKERS
    }


def ordinary_lines(most: int = LINES) -> Iterator[bytes]:
    """Yield lines of the standard library's sources and of licences on this machine."""
    library = Path(sysconfig.get_path("stdlib"))
    names = (
        "argparse",
        "asyncio/base_events",
        "collections/__init__",
        "datetime",
        "decimal",
        "typing",
    )
    more = ("inspect", "logging/__init__", "pathlib", "pickle", "subprocess", "tarfile", "zipfile")
    licences = sorted(Path(sysconfig.get_path("purelib")).glob("*.dist-info/**/LICENSE*"))[:30]
    files = [*licences, *(library / f"{name}.py" for name in names + more)]
    lines = (line for file in files if file.is_file() for line in file.read_bytes().splitlines())
    for _, line in zip(range(most), lines, strict=False):
        yield line


def mistaken(
    types: tuple[str, ...] = CHECKED, regions: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    """Return what is found in ordinary lines, of types that a check confirms."""
    text = b"\n".join(ordinary_lines())
    find = detector(regions).find
    return [
        (one.type, text[one.start : one.end].decode("utf-8", "replace"))
        for one in find(text)
        if one.type in types
    ]


def speeds() -> dict[str, float]:
    """Return MB/s of the scan for clean text, and microseconds of prompts and a stream's pieces."""
    prose = json.dumps({"model": "m", "messages": [{"role": "user", "content": _PROSE * 9000}]})
    code = b"\n".join(line for line in ordinary_lines() if not suspicious(line))
    result = {
        "prose_mb_s": _rate(prose.encode()),
        "code_mb_s": _rate(code),
    }
    for size in (200, 2000, 100_000):
        text = (_PROSE * (1 + size // len(_PROSE)))[:size]
        for name, end in (("clean", ""), ("found", " bob@example.com 4111 1111 1111 1111")):
            message = {"role": "user", "content": text + end}
            body = json.dumps({"model": "m", "messages": [message]}).encode()
            rounds = max(20, 200_000 // len(body))
            best = min(_timed(partial(_redacted, body), rounds) for _ in range(_ROUNDS))
            result[f"prompt_{size}_{name}_us"] = best * 1e6
    words = [f" {word}" for word in (_PROSE * 20).split()]
    running = RunningText(Redactor(REDACT_ALL))
    started = time.perf_counter()
    for word in words:
        running.feed(word)
    result["stream_piece_us"] = (time.perf_counter() - started) / len(words) * 1e6
    return result


def _redacted(body: bytes) -> bytes:
    return Redactor(REDACT_ALL).prompt(body)


def _timed(work: Any, rounds: int) -> float:  # noqa: ANN401 - anything to call
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    return (time.perf_counter() - started) / rounds


def _rate(text: bytes) -> float:
    best = min(_timed(lambda: suspicious(text), 3) for _ in range(_ROUNDS))
    return len(text) / best / 1e6


def main() -> None:
    """Print the tables; exit with 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--each", type=int, default=300, help="values of each type")
    arguments = parser.parse_args()
    table, fast = measure(arguments.each), speeds()
    regional = measure(arguments.each, regional=True)["PHONE"]
    wrong = [*mistaken(), *mistaken(("PHONE",), REGIONS)]
    good = (
        not wrong
        and fast["prose_mb_s"] >= MEGABYTES_PER_SECOND
        and all(
            row["precision"] >= PRECISION and row["recall"] >= RECALL
            for row in (*(table[kind] for kind in CHECKED), regional)
        )
    )
    if arguments.json:
        print(
            json.dumps(
                {
                    "types": table,
                    "national_phones": regional,
                    "mistaken": wrong,
                    "speed": fast,
                    "good": good,
                },
                indent=2,
            )
        )
        sys.exit(not good)
    print(f"{'type':<14}{'precision':>10}{'recall':>10}   check")
    for kind, row in table.items():
        check = "checked" if kind in CHECKED else "by its form"
        print(f"{kind:<14}{row['precision']:>10.4f}{row['recall']:>10.4f}   {check}")
    print(
        f"{'PHONE':<14}{regional['precision']:>10.4f}{regional['recall']:>10.4f}   checked, "
        f"as {', '.join(REGIONS)} write them"
    )
    print(f"\nfound in {LINES} lines of sources and licences, of checked types: {len(wrong)}")
    for kind, text in wrong[:20]:
        print(f"  {kind}: {text}")
    print()
    for name, value in fast.items():
        print(f"{name:<26}{value:>12.1f}")
    sys.exit(not good)


if __name__ == "__main__":
    main()
