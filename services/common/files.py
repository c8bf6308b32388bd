"""Files that are there whole or not at all, and stay."""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file in place durably; a reader sees the old content or the new.

    One process at a time writes a file. What it leaves behind when it dies is `<name>.new`.

    Args:
        path: where; its directory is there.
        data: the content.
        mode: who may read it; owner alone unless said.

    Raises:
        OSError: the disk refuses; what was there before is as it was.
    """
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
