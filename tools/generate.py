"""Generate `gen/` from `protos/`: messages, stubs, types and the descriptor set.

The third-party protos come out of installed wheels, so nothing of them is copied into the tree.
`--check` generates into a scratch directory and fails when `gen/` differs.
"""

import argparse
import filecmp
import os
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
DESCRIPTOR_SET = "weaver.binpb"
IGNORED = ["__pycache__", "envoy_rls.binpb"]  # the second is tools/envoy_protos.py's


def include_paths(protos: Path) -> list[str]:
    """Return protoc's include flags: our protos, googleapis and the well-known types."""
    third_party = [
        Path(annotations_pb2.__file__).parents[2],
        Path(grpc_tools.__file__).parent / "_proto",
    ]
    return [f"-I{protos}", *(f"-I{path}" for path in third_party)]


def compile_protos(protos: Path, *outputs: str) -> None:
    """Run protoc over every proto of a tree.

    Raises:
        SystemExit: protoc refused; its messages are on standard error.
    """
    # protoc looks for its plugins there, also when the environment is not activated.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    sources = [str(path.relative_to(protos)) for path in sorted(protos.rglob("*.proto"))]
    status = protoc.main(["protoc", *include_paths(protos), *outputs, *sources])
    if status:
        raise SystemExit(status)


def write_image(protos: Path, destination: Path) -> None:
    """Write a descriptor set with imports and comments, the form that buf reads."""
    compile_protos(
        protos, f"--descriptor_set_out={destination}", "--include_imports", "--include_source_info"
    )


def generate(destination: Path) -> None:
    """Write the whole of `gen/` below a directory."""
    destination.mkdir(parents=True, exist_ok=True)
    compile_protos(
        ROOT / "protos",
        f"--python_out={destination}",
        f"--grpc_python_out={destination}",
        f"--mypy_out=quiet:{destination}",
        f"--mypy_grpc_out=quiet:{destination}",
        f"--descriptor_set_out={destination / 'weaver' / DESCRIPTOR_SET}",
        "--include_imports",
    )
    for package in [destination / "weaver", *(destination / "weaver").rglob("*/")]:
        (package / "py.typed" if package.name == "weaver" else package / "__init__.py").touch()


def differences(comparison: filecmp.dircmp[str]) -> list[str]:
    """Return the paths that differ between two directory trees."""
    _, changed, broken = filecmp.cmpfiles(
        comparison.left, comparison.right, comparison.common_files, shallow=False
    )
    here = [*changed, *broken, *comparison.left_only, *comparison.right_only]
    below = [path for sub in comparison.subdirs.values() for path in differences(sub)]
    return [str(Path(comparison.left) / name) for name in here] + below


def main() -> None:
    """Generate, or with `--check` fail when what is checked in is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        generate(ROOT / "gen")
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = differences(filecmp.dircmp(ROOT / "gen", scratch, ignore=IGNORED))
    if stale:
        sys.exit("generated code is stale; run `make generate`:\n  " + "\n  ".join(stale))


if __name__ == "__main__":
    main()
