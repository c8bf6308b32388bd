"""From settings to the side store, and to what works with it."""

import asyncio
import sqlite3
from collections.abc import Awaitable
from pathlib import Path

import structlog

from services.audit.configuration import STARTED, Configurations
from services.audit.events import OwnEvents
from services.audit.index import Filter
from services.audit.keys.files import check_file
from services.audit.layout import Layout
from services.audit.log import Log
from services.audit.reader import Reader
from services.audit.settings import AuditSettings
from services.audit.sidestore.erasure import Eraser, Records
from services.audit.sidestore.store import SideStore
from services.audit.sidestore.vault import VaultError, load_or_make_key, parse_key
from services.common.errors import Unavailable
from services.common.health import Health

KEY_VARIABLE = "WEAVER_AUDIT_STORE_KEY"
KEY_FILE = "audit-store.key"
_STARTS = 500

_log = structlog.get_logger()


def open_side_store(settings: AuditSettings, layout: Layout) -> SideStore:
    """Return the side store, unlocked.

    Raises:
        KeyProblem: others can read the key's file.
        VaultError: there is no key, or not the right one; the message names the variable.
        OSError: the disk refuses.
    """
    if settings.store_key_file is not None:
        check_file(settings.store_key_file, f"{KEY_VARIABLE}_FILE")
    if settings.store_key is None:
        key = _made_key(settings.keys_path / KEY_FILE, layout)
    else:
        key = parse_key(settings.store_key.get_secret_value(), KEY_VARIABLE)
    previous = None
    if settings.store_key_previous is not None:
        text = settings.store_key_previous.get_secret_value()
        previous = parse_key(text, f"{KEY_VARIABLE}_PREVIOUS")
    return SideStore(layout.side_store, settings.log_origin, key, previous)


def _made_key(path: Path, layout: Layout) -> bytes:
    """Return development's own key; a new one would open nothing of a store that is there."""
    if not path.exists() and (layout.side_store / "keyring").exists():
        msg = (
            f"{KEY_VARIABLE}: {path} is missing, and {layout.side_store} is locked with it. Put "
            f"the key back, or move {layout.side_store} away to begin with an empty side store: "
            f"the log still verifies."
        )
        raise VaultError(msg)
    return load_or_make_key(path)


def eraser(store: SideStore, events: OwnEvents, log: Log, reader: Reader) -> Eraser:
    """Return who carries out orders over a log."""

    def find(wanted: Filter, limit: int, after: int | None) -> list[int]:
        return reader.find(wanted, limit=limit, after=after, ascending=True)

    def settled(size: int, timeout_s: float) -> Awaitable[bool]:
        return log.wait_integrated(size, timeout_s)

    return Eraser(store, events, Records(lambda: log.size, reader.entry, find, settled))


async def recall(configurations: Configurations, reader: Reader, size: int) -> None:
    """Have the log say what services were started with, before it had so many records."""

    def entries() -> list[bytes]:
        started = Filter(types=(STARTED,))
        found = reader.find(started, limit=_STARTS, after=size, ascending=False)
        return [reader.entry(index) for index in reversed(found)]

    try:
        await configurations.remember(await asyncio.to_thread(entries))
    except (OSError, sqlite3.Error) as error:
        _log.error("audit_configurations_not_known", error=str(error))
        await configurations.remember(())


async def make_current(store: SideStore, orders: Eraser, log: Log, health: Health) -> None:
    """Do what the side store owes: orders it has missed, a new data key; then say how it is."""
    problems = list(store.problems)
    try:
        repeated = await orders.repeat()
        if repeated:
            _log.info("audit_erasures_checked", orders=repeated)
    except Unavailable as error:
        problems.append(f"orders were not carried out again: {error.message}")
        _log.error("audit_erasures_not_checked", error=error.message)
    if store.vault.turning:
        try:
            if await log.trim_all():
                await asyncio.to_thread(store.finish_turning)
        except OSError as error:
            problems.append(f"it could not be sealed anew: {error}")
            _log.error("audit_disk_refuses", operation="seal anew", error=str(error))
    health.set("side_store", not problems, "; ".join(problems))
