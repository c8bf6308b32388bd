"""Lint the contracts, check their format, and refuse changes that would break a caller.

buf reads descriptor sets, so that the third-party protos need not lie in the tree. The contracts
are compared with the last commit; a commit that changed them, with the one before it.
"""

import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools.generate import ROOT, write_image

OURS = ("--path", "weaver")


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in the tree."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


def buf(*arguments: str | Path) -> bool:
    """Run buf; what it says goes to the terminal."""
    program = Path(sys.executable).parent / "buf"
    return subprocess.run([program, *arguments], cwd=ROOT, check=False).returncode == 0


def earlier(destination: Path) -> str:
    """Unpack the contracts to compare with, and return their revision or why there are none."""
    if git("rev-parse", "HEAD").returncode:
        return "no commit to compare with"
    revision = "HEAD" if git("status", "--porcelain", "--", "protos").stdout else "HEAD~1"
    if git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode:
        return "no parent commit here (the first commit, or a shallow clone)"
    archive = git("archive", "--format=zip", revision, "protos")
    if archive.returncode:
        return f"{revision} has no contracts"
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(destination)
    return revision


def main() -> None:
    """Run the three checks, and fail if one does."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        # In a descriptor set, files are named from the root of their module.
        config = scratch / "buf.yaml"
        text = (ROOT / "buf.yaml").read_text()
        config.write_text(text.replace("path: protos", "path: .").replace("protos/", ""))
        now = scratch / "now.binpb"
        write_image(ROOT / "protos", now)
        good = buf("lint", now, "--config", config, *OURS)
        good &= buf("format", "--diff", "--exit-code", "protos")
        revision = earlier(scratch)
        if not (scratch / "protos").exists():
            print(f"nothing to compare the contracts with: {revision}")
        else:
            before = scratch / "before.binpb"
            write_image(scratch / "protos", before)
            good &= buf("breaking", now, "--against", before, "--config", config, *OURS)
            print(f"contracts compared with {revision}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
