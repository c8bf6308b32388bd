"""Run every check that CI runs, each with its time, and say at the end which failed.

`make check` is this. Arguments choose steps by name.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
TYPED = ("services", "tests", "tools", "bench")


def has_python(folder: str) -> bool:
    """Say whether there is anything to check in a folder."""
    return any((ROOT / folder).rglob("*.py"))


STEPS: dict[str, list[str]] = {
    "lint": ["ruff", "check", "--quiet", "--output-format", "concise", "."],
    "format": ["ruff", "format", "--check", "--quiet", "."],
    "types": ["mypy", *(name for name in TYPED if has_python(name))],
    "imports": ["lint-imports", "--no-cache"],
    "contracts": ["python", "tools/contracts.py"],
    "generated": ["python", "tools/generate.py", "--check"],
    "settings": ["python", "tools/settings_doc.py", "--check"],
    "metrics": ["python", "tools/metrics_doc.py", "--check"],
    "envoy": ["weaver", "envoy", "validate"],
    "secrets": ["python", "tools/tree.py", "secrets"],
    "registries": ["python", "tools/tree.py", "registries"],
    "lengths": ["python", "tools/tree.py", "lengths"],
}


def run(name: str) -> bool:
    """Run one step; what it says is shown when it fails, and what it compared with always."""
    program, *arguments = STEPS[name]
    started = time.monotonic()
    result = subprocess.run(
        [BIN / program, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    verdict = "ok" if result.returncode == 0 else "FAILED"
    print(f"{name:<12}{time.monotonic() - started:6.1f} s  {verdict}", flush=True)
    if result.returncode or name == "contracts":
        print(result.stdout.rstrip(), flush=True)
    return result.returncode == 0


def main() -> None:
    """Run the steps, all of them whatever fails."""
    chosen = sys.argv[1:] or list(STEPS)
    unknown = [name for name in chosen if name not in STEPS]
    if unknown:
        sys.exit(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    failed = [name for name in chosen if not run(name)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
    print(f"all {len(chosen)} checks passed")


if __name__ == "__main__":
    main()
