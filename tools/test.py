"""Run every test: `make test`. With arguments, plain pytest with these.

The tests that start processes mostly wait, those of single units mostly calculate; so both run at
the same time, the second with less of a claim to the processor, and its report follows.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAITING = ("tests/e2e", "tests/integration")
CALCULATING = ("tests/unit", "tests/contract")
_POLITELY = ("nice", "-n", "10")


def main() -> int:
    """Return what pytest returns; of two, what is not zero."""
    pytest = [sys.executable, "-m", "pytest"]
    if sys.argv[1:]:
        return subprocess.run([*pytest, *sys.argv[1:]], cwd=ROOT, check=False).returncode
    with tempfile.TemporaryFile() as report:
        beside = subprocess.Popen(
            [*_POLITELY, *pytest, "-q", "-p", "no:cacheprovider", *CALCULATING],
            cwd=ROOT,
            stdout=report,
            stderr=subprocess.STDOUT,
        )
        try:
            print(f"{' and '.join(CALCULATING)} run beside; their report follows.", flush=True)
            first = subprocess.run([*pytest, *WAITING], cwd=ROOT, check=False).returncode
            second = beside.wait()
        finally:
            beside.kill()
        report.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(report.read())
        sys.stdout.flush()
    return first or second


if __name__ == "__main__":
    sys.exit(main())
