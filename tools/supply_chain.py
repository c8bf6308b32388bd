"""What the images are made of, as CycloneDX, and what is known against it.

    python tools/supply_chain.py sbom    writes dist/sbom/<image>.cdx.json
    python tools/supply_chain.py audit   ends with status 1 where a vulnerability is known

The tools run apart from the project, so that nothing of them gets into its own packages.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "dist" / "sbom"
IMAGES = ("gateway", "ratelimit", "model", "audit", "cli", "suite", "envoy", "valkey")
CYCLONEDX = "cyclonedx-bom==7.5.0"
AUDITOR = "pip-audit==2.10.1"


def tool(package: str, *arguments: str) -> int:
    """Run a tool in an environment of its own and return its exit status."""
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv), "tool", "run", "--quiet", "--from", package, *arguments]
    environment = {**os.environ, "UV_NO_CONFIG": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def sbom() -> int:
    """Write the bill of materials of each image."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        place = OUTPUT / f"{image}.cdx.json"
        command = ["cyclonedx-py", "requirements", f"requirements/{image}.txt"]
        command += ["--pyproject", "pyproject.toml", "--output-reproducible", "-o", str(place)]
        if status := tool(CYCLONEDX, *command):
            return status
        parts = json.loads(place.read_text()).get("components", [])
        print(f"{place.relative_to(ROOT)}: {len(parts)} packages")
    return 0


def audit() -> int:
    """Ask for known vulnerabilities of all pinned packages; what cannot be asked fails too."""
    files = [argument for image in IMAGES for argument in ("-r", f"requirements/{image}.txt")]
    return tool(AUDITOR, "pip-audit", "--disable-pip", "--require-hashes", "--strict", *files)


if __name__ == "__main__":
    commands = {"sbom": sbom, "audit": audit}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:  # noqa: PLR2004 - one command
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(commands)}")
    sys.exit(commands[sys.argv[1]]())
