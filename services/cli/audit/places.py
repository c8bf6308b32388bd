"""Where a log is read from: a directory, or an address, with a credential and an authority."""

import os
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from services.audit.verification.offline import OfflineError, OfflineLog
from services.audit.verification.remembered import Remembered
from services.audit.verification.remote import RemoteLog
from services.audit.verification.remote_reading import RemoteTiles, ServiceLog
from services.audit.verification.web import WebClient, WebError
from services.cli.audit.options import log_directory, usage

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_LOCAL_CA = Path("tls") / "ca.pem"

CAFile = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        help="The authority (PEM) that an https address is checked with, besides the system's. "
        "Default: the one of `weaver up` here.",
    ),
]


def is_address(target: str | None) -> bool:
    """Say whether a log is named by an address and not by a directory."""
    return target is not None and _ADDRESS.match(target) is not None


@contextmanager
def remote_log(url: str, ca: Path | None) -> Iterator[RemoteLog]:
    """Open a log at an address; end with a sentence when it cannot be read.

    The credential comes from WEAVER_API_KEY, never from an argument, which others can see.
    """
    try:
        log = RemoteLog(web_client(url, ca))
    except WebError as error:
        usage(str(error))
    try:
        yield log
    except WebError as error:
        usage(str(error))
    finally:
        log.close()


@contextmanager
def reading(target: str | None, ca: Path | None) -> Iterator[OfflineLog]:
    """Open a log to read it; end with a sentence when that cannot be done."""
    try:
        if target is None or not is_address(target):
            yield OfflineLog(log_directory(None if target is None else Path(target)))
            return
        with remote_log(target, ca) as log:
            if log.is_service:
                yield ServiceLog(log, web_client(target, ca))
            else:
                yield OfflineLog(RemoteTiles(log))
    except OfflineError as error:
        usage(str(error))


def web_client(url: str, ca: Path | None) -> WebClient:
    """Return a client for an address.

    Raises:
        WebError: the address cannot be used.
    """
    credential = os.environ.get("WEAVER_API_KEY", "").strip()
    return WebClient(url, credential=credential, trust=_trust(ca))


def auditor_directory() -> Path:
    """Return where an auditor's own state lies.

    WEAVER_AUDITOR_DIR, or below the state directory where there is one, or in the user's home.
    """
    named = os.environ.get("WEAVER_AUDITOR_DIR")
    if named:
        return Path(named)
    state = os.environ.get("WEAVER_STATE_DIR")
    if state or Path(".weaver").is_dir():
        return Path(state or ".weaver") / "auditor"
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "weaver" / "auditor"


def remembered() -> Remembered:
    """Return what this auditor remembers of logs."""
    return Remembered(auditor_directory())


def _trust(ca: Path | None) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    own = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver")) / _LOCAL_CA
    try:
        if ca is not None:
            trust.load_verify_locations(ca)
        elif own.exists():
            trust.load_verify_locations(own)
    except (OSError, ssl.SSLError) as error:
        usage(f"--ca: {ca or own}: {error}")
    return trust
