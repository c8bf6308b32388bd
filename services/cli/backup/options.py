"""What the commands of `weaver backup` share: their options, and how they speak."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from services.audit.archives.targets import TargetError, TargetURLError, open_target
from services.audit.keys.files import check_file
from services.audit.keys.signers import KeyProblem
from services.cli.backup import age_keys
from services.cli.backup.bundle import BundleError
from services.cli.backup.shelf import KINDS, Kind, Shelf, ShelfError
from services.cli.backup.snapshot import SnapshotError
from services.common.settings import SettingsError

FAILED, USAGE, NOT_NOW = 1, 2, 3
_AFTER_S = 2.0
_WHERE = "s3://bucket/prefix (credentials from the AWS_* variables) or file:///directory."

To = Annotated[str, typer.Option("--to", envvar="WEAVER_BACKUP_TARGET", help=f"Where to: {_WHERE}")]
From = Annotated[
    str, typer.Option("--from", envvar="WEAVER_BACKUP_TARGET", help=f"The backups: {_WHERE}")
]
Recipients = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        envvar="WEAVER_BACKUP_RECIPIENTS",
        help="For whom to seal it: age1…; may be repeated. `weaver backup keygen` makes one.",
    ),
]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="WEAVER_BACKUP_PASSPHRASE_FILE",
        help="Seal or open it with the passphrase in this file instead.",
    ),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        envvar="WEAVER_BACKUP_IDENTITY_FILE",
        help="Who opens it: a file with AGE-SECRET-KEY-1….",
    ),
]
At = Annotated[str, typer.Option("--at", help="Which one, as `list` names it; default: newest.")]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--log", help="The log's directory. Default: WEAVER_AUDIT_PATH, or this machine's."
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]


def shelf(option: str, url: str) -> Shelf:
    """Return the backups that a URL names."""
    try:
        return Shelf(open_target(url, os.environ))
    except TargetURLError as error:
        usage(f"{option}: {error}")


def recipients(given: Sequence[str] | None, passphrase: Path | None) -> list[age_keys.Recipient]:
    """Return for whom to seal; nothing is ever written unsealed."""
    try:
        if passphrase is not None and not given:
            return [age_keys.Passphrase(_secret(passphrase, "--passphrase-file"))]
        if given and passphrase is None:
            return [age_keys.PublicKey(text) for text in given]
    except (age_keys.AgeError, KeyProblem) as error:
        usage(str(error))
    return usage(
        "a backup is never written unsealed: give either --recipient age1… "
        "(`weaver backup keygen` makes one) or --passphrase-file"
    )


def identities(identity: Path | None, passphrase: Path | None) -> list[age_keys.Identity]:
    """Return who may open a backup."""
    found: list[age_keys.Identity] = []
    try:
        if identity is not None:
            lines = _secret(identity, "--identity").splitlines()
            keys = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
            found += [age_keys.SecretKey(key) for key in keys]
        if passphrase is not None:
            found.append(age_keys.Passphrase(_secret(passphrase, "--passphrase-file")))
    except (age_keys.AgeError, KeyProblem) as error:
        usage(str(error))
    if not found:
        usage("backups are sealed: say who opens them, with --identity or --passphrase-file")
    return found


def chosen(kind: str) -> Kind:
    """Return a kind of backup by its name."""
    for known in KINDS:
        if known == kind:
            return known
    return usage(f"{kind!r} is none of {', '.join(KINDS)}")


def utc_now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@contextmanager
def spoken(*, as_json: bool) -> Iterator[None]:
    """Turn what can go wrong into a sentence and an exit code."""
    try:
        yield
    except (SettingsError, KeyProblem) as error:
        end(USAGE, str(error), as_json=as_json)
    except (age_keys.AgeError, ShelfError, BundleError) as error:
        end(FAILED, str(error), as_json=as_json)
    except TargetError as error:
        end(NOT_NOW, f"{error}. Run it again.", as_json=as_json)
    except SnapshotError as error:
        end(NOT_NOW, str(error), as_json=as_json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        end(FAILED, f"{where}{error.strerror or error}", as_json=as_json)


def watched(data: Iterable[bytes], doing: str, *, quiet: bool) -> Iterator[bytes]:
    """Pass data on; on a terminal say how much, once it takes long."""
    if quiet or not sys.stderr.isatty():
        yield from data
        return
    began, done = time.monotonic(), 0
    with Console(stderr=True).status("") as status:
        status.stop()
        for piece in data:
            done += len(piece)
            if time.monotonic() - began > _AFTER_S:
                status.start()
                status.update(f"{doing}: {size_text(done)}")
            yield piece


def size_text(size: float) -> str:
    """Return a size for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 - the next unit
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def tell(document: dict[str, Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Say what was done, for machines or for people."""
    text = json.dumps(document) if as_json else "\n".join(lines)
    sys.stdout.write(f"{text}\n")


def end(code: int, message: str, *, as_json: bool) -> NoReturn:
    """End the command with a sentence."""
    if as_json:
        sys.stdout.write(json.dumps({"good": False, "error": message}) + "\n")
    else:
        sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(code)


def usage(message: str) -> NoReturn:
    """End because the command was called in a wrong way."""
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(USAGE)


def _secret(path: Path, source: str) -> str:
    """Return what a file of a secret holds, which others must not be able to read."""
    check_file(path, source)
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        usage(f"{source}: {path} holds no text")
    if not text:
        usage(f"{source}: {path} is empty")
    return text
