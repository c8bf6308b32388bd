"""Names in filters: what records show of a person whose name the side store here can translate."""

import os
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

from services.audit.index import Filter
from services.audit.layout import Layout
from services.audit.sidestore.pseudonyms import Identity, Pseudonyms
from services.audit.sidestore.vault import Vault, VaultError, parse_key
from services.audit.sidestore.wiring import KEY_FILE, KEY_VARIABLE
from services.audit.verification.offline import OfflineLog
from services.cli.audit.options import log_directory
from services.cli.audit.places import is_address


def resolved(wanted: Filter, target: str | None, log: OfflineLog) -> Filter:
    """Return a filter that also matches the pseudonyms of its subject, where they are known here.

    A log at an address is left to its service. Where the side store cannot be opened, a line on
    standard error says so: records under a pseudonym are then found by the pseudonym alone.
    """
    if not wanted.subject or is_address(target):
        return wanted
    layout = Layout(log_directory(None if target is None else Path(target)))
    directory = layout.side_store
    if not (directory / "callers.db").exists():
        return wanted
    try:
        vault = Vault(directory / "keyring", log.checkpoint.checkpoint.origin, _key())
        callers = Pseudonyms(directory / "callers.db", vault, readonly=True)
        try:
            found = callers.find(Identity(wanted.tenant, wanted.issuer, wanted.subject))
        finally:
            callers.close()
    except (OSError, VaultError, sqlite3.Error) as error:
        sys.stderr.write(
            f"weaver: pseudonyms are not looked up, records under one are found by it alone: "
            f"{error}\n"
        )
        return wanted
    pseudonyms = {*wanted.pseudonyms, *(caller.pseudonym for caller in found)}
    return replace(wanted, pseudonyms=tuple(sorted(pseudonyms)))


def _key() -> bytes:
    """Return the key of the side store, from where the audit service has it.

    Raises:
        VaultError: it is no key.
        OSError: there is none, or it cannot be read.
    """
    text = os.environ.get(KEY_VARIABLE)
    if text:
        return parse_key(text, KEY_VARIABLE)
    state = Path(os.environ.get("WEAVER_STATE_DIR", ".weaver"))
    path = Path(os.environ.get(f"{KEY_VARIABLE}_FILE") or state / "keys" / KEY_FILE)
    return parse_key(path.read_text(), str(path))
