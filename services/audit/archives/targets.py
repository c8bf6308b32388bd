"""Where archives lie: a directory, or a bucket of an object store that speaks S3.

A write is whole or did not happen, durable when it returns. Archiving never deletes anything; only
who keeps backups by a retention asks for that.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from services.common.files import sync_directory

_TEMPORARY = "unfinished"


class TargetError(Exception):
    """The target cannot be used now; the message is for operators and says what to do."""


class TargetURLError(ValueError):
    """The target is named in a wrong way; the message is for operators."""


class Target(Protocol):
    """A place for archives; used from several threads.

    Attributes:
        name: the target as people read it; holds no credential.
        at_once: how many requests are worth making at a time.
    """

    name: str
    at_once: int

    def read(self, path: str) -> bytes | None:
        """Return what lies at a path; None when there is nothing.

        Raises:
            TargetError: the target does not answer.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """Put something at a path, whole and durably; replaces what is there.

        Raises:
            TargetError: the target refuses.
        """
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return every path below a prefix with its size.

        Raises:
            TargetError: the target does not answer.
        """
        ...


class RemovingTarget(Target, Protocol):
    """A target that gives room back."""

    def remove(self, paths: Sequence[str]) -> None:
        """Remove what lies at these paths, in this order; what is gone already is no matter.

        Raises:
            TargetError: the target refuses.
        """
        ...


class DirectoryTarget:
    """An archive in a directory."""

    at_once = 1

    def __init__(self, directory: Path) -> None:
        """See the class."""
        self._root = directory
        self.name = f"file://{directory}"

    def read(self, path: str) -> bytes | None:
        """Return what lies at a path; None when there is nothing."""
        try:
            return (self._root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refused(error) from None

    def write(self, path: str, data: bytes) -> None:
        """Put something at a path, whole and durably."""
        target = self._root / path
        temporary = self._root / _TEMPORARY
        try:
            self._make(target.parent)
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(target)
            except OSError:
                temporary.unlink(missing_ok=True)  # A full disk gets its room back.
                raise
            sync_directory(target.parent)
        except OSError as error:
            raise self._refused(error) from None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return every path below a prefix with its size."""
        found: dict[str, int] = {}
        try:
            for directory, _, names in os.walk(self._root / prefix):
                for name in names:
                    path = Path(directory, name)
                    found[str(path.relative_to(self._root))] = path.stat().st_size
        except OSError as error:
            raise self._refused(error) from None
        return found

    def remove(self, paths: Sequence[str]) -> None:
        """Remove what lies at these paths, and directories that are empty then."""
        try:
            for path in paths:
                (self._root / path).unlink(missing_ok=True)
            for parent in {(self._root / path).parent for path in paths}:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
        except OSError as error:
            raise self._refused(error) from None

    def _make(self, directory: Path) -> None:
        if not directory.is_dir():
            self._make(directory.parent)
            directory.mkdir(exist_ok=True)
            sync_directory(directory.parent)

    def _refused(self, error: OSError) -> TargetError:
        where = f" ({error.filename})" if error.filename else ""
        return TargetError(f"{self.name}: {error.strerror}{where}")


def open_target(url: str, environment: Mapping[str, str]) -> RemovingTarget:
    """Return the target that a URL names: `s3://bucket/prefix` or `file:///directory`.

    Raises:
        TargetURLError: it names none.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or parts.password:
        msg = (
            "a target has no query, no fragment and no credentials: those come from AWS_* variables"
        )
        raise TargetURLError(msg)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and len(parts.path) > 1:
        return DirectoryTarget(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from services.audit.archives.bucket import BucketTarget  # noqa: PLC0415 - slow to load

        return BucketTarget(parts.netloc, unquote(parts.path).strip("/"), environment)
    msg = f"{url!r} is neither s3://bucket/prefix nor file:///directory"
    raise TargetURLError(msg)
