"""What the commands of `weaver keys` share: their options, where keys lie, and how they speak."""

import getpass
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console

from services.audit.keys.archive import ArchiveError, KeyArchive, load_archive, rfc3339
from services.audit.keys.files import ED25519_FILE, RSA_FILE, RSA_PUBLIC_FILE
from services.audit.keys.provenance import Provenance
from services.audit.keys.settings import sources
from services.audit.keys.source import KeySource, Value
from services.audit.layout import Layout
from services.audit.settings import AuditSettings

Directory = Annotated[
    Path | None,
    typer.Option(
        "--directory",
        help="Where the keys lie. Default: as the settings say, or keys/ in the state directory.",
    ),
]
AsJSON = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]
LogOption = Annotated[
    Path | None,
    typer.Option("--log", help="The log's directory; its archive of keys lies beside it."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record in the log.")]
By = Annotated[
    str, typer.Option("--by", help="Who, for the record in the log. Default: user@host.")
]
For = Annotated[
    str,
    typer.Option(
        "--for",
        help="The environment that the keys are for; no other takes them. Default: ENVIRONMENT.",
    ),
]
Bits = Annotated[int, typer.Option("--bits", help="RSA: 2048, 3072 or 4096.")]

_FROM_ENVIRONMENT: dict[str, Any] = {}


def settings_of(directory: Path | None) -> AuditSettings:
    """Return the settings, with the keys of a directory if one is given."""
    try:
        settings = AuditSettings(**_FROM_ENVIRONMENT)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        usage(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}")
    if directory is None:
        return settings
    public = directory / RSA_PUBLIC_FILE
    return settings.model_copy(
        update={
            "signing_key": None,
            "signing_key_file": directory / RSA_FILE,
            "signing_key_previous": None,
            "signing_key_previous_file": None,
            "verification_key": None,
            "verification_key_file": public if public.exists() else None,
            "ed25519_key": None,
            "ed25519_key_file": directory / ED25519_FILE,
            "ed25519_key_previous": None,
            "ed25519_key_previous_file": None,
        }
    )


def key_sources(settings: AuditSettings) -> list[KeySource]:
    """Return where keys are from, none of them made when missing, each with its public half."""
    found = []
    for source in sources(settings, made_time=""):
        path, public = source.private.path, source.public
        if source.algorithm == "RSA" and public is None and path is not None:
            beside = path.with_name(RSA_PUBLIC_FILE)
            public = Value(str(beside), path=beside, secret=False, optional=True)
        private = source.private
        if path is not None:
            private = replace(private, source=str(path))
        found.append(replace(source, private=private, public=public, make=False))
    return found


def layout_of(log: Path | None) -> Layout:
    """Return where a log lies; the one of the settings, unless another is named."""
    return Layout(log or settings_of(None).log_path)


def archive_of(log: Path | None) -> KeyArchive | None:
    """Return the archive beside a log; None when there is none.

    Ends the command when it is damaged.
    """
    path = layout_of(log).keys
    if not path.exists():
        return None
    try:
        return load_archive(path)
    except ArchiveError as error:
        usage(str(error))


def stated(reason: str, by: str, environment: str) -> Provenance:
    """Return what to state of a key that is made here."""
    host = socket.gethostname()
    return Provenance(
        made_by=by or f"{_user()}@{host}",
        made_on=host,
        made_time=rfc3339(time.time()),
        reason=reason,
        environment=environment or os.environ.get("ENVIRONMENT", ""),
    )


def passphrase_of(source: KeySource) -> bytes | None:
    """Return the passphrase that a source's settings name."""
    text = None if source.passphrase is None else source.passphrase.read()
    return text.rstrip(b"\r\n") or None if text else None


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Say on a terminal that something takes a while."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(what):
        yield


def usage(message: str) -> NoReturn:
    """End the command as called in a wrong way."""
    sys.stderr.write(f"weaver: {message}\n")
    raise typer.Exit(2)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
