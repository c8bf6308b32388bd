"""Run every test: `make test`. With arguments, plain pytest with these.

The tests of the whole suite mostly wait for its processes; so all others run at the same time, with
a little less of a claim to the processor, and their report follows.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAITING = ("tests/e2e",)
BESIDE = ("tests/unit", "tests/contract", "tests/integration")
_POLITELY = ("nice", "-n", "5")


def main() -> int:
    """Return what pytest returns; of two, what is not zero."""
    pytest = [sys.executable, "-m", "pytest"]
    if sys.argv[1:]:
        return subprocess.run([*pytest, *sys.argv[1:]], cwd=ROOT, check=False).returncode
    with tempfile.TemporaryFile() as report:
        beside = subprocess.Popen(
            [*_POLITELY, *pytest, "-q", "-p", "no:cacheprovider", *BESIDE],
            cwd=ROOT,
            stdout=report,
            stderr=subprocess.STDOUT,
        )
        try:
            print(f"{', '.join(BESIDE)} run beside; their report follows.", flush=True)
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
