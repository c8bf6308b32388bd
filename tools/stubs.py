"""Build what other teams call Weaver with: a typed wheel of the stubs, and the descriptor set.

`dist/weaver_stubs-<version>-py3-none-any.whl` holds `gen/` alone, for synchronous and asynchronous
clients; `dist/weaver.binpb` is the same contracts for buf and protoc. No network is used.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tools.generate import DESCRIPTOR_SET, ROOT

PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "weaver-stubs"
version = "{version}"
description = "Typed gRPC stubs of Weaver, the AI gateway that proves what happened."
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = ">=3.11"
dependencies = {dependencies}

[tool.hatch.build.targets.wheel]
packages = ["weaver"]
"""
NEEDED = ("googleapis-common-protos", "grpcio", "protobuf")


def project() -> str:
    """Return the wheel's pyproject.toml, with the version and the dependencies of the suite."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [item for item in ours["dependencies"] if item.split(">")[0] in NEEDED]
    return PROJECT.format(version=ours["version"], dependencies=needed)


def build(destination: Path) -> Path:
    """Build both below a directory and return the wheel.

    Raises:
        SystemExit: the wheel cannot be built; why is on standard error.
    """
    destination.mkdir(parents=True, exist_ok=True)
    for old in destination.glob("weaver_stubs-*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "gen" / "weaver", source / "weaver", ignore=ignored)
        (source / "pyproject.toml").write_text(project())
        shutil.copy(ROOT / "LICENSE", source)
        shutil.copy(ROOT / "docs" / "api" / "clients.md", source / "README.md")
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "-t",
            "wheel",
            "-d",
            destination,
        ]
        result = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stdout + result.stderr)
    shutil.copy(ROOT / "gen" / "weaver" / DESCRIPTOR_SET, destination)
    return next(destination.glob("weaver_stubs-*.whl"))


def main() -> None:
    """Build into `dist/`, or where `--output` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="default: dist/")
    destination = parser.parse_args().output.resolve()
    print(build(destination))
    print(destination / DESCRIPTOR_SET)


if __name__ == "__main__":
    main()
