"""From settings to a log that prunes itself, now and then and when it is asked to."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.audit.archives.archived import read_archived
from services.audit.archives.retention import Minimum, Retention, Rule
from services.audit.events import OwnEvents
from services.audit.following import FollowingIndex
from services.audit.layout import Layout
from services.audit.log import Log
from services.audit.settings import AuditSettings
from services.audit.sidestore.store import SideStore
from services.audit.tiles import TileDirectory
from services.common.backups import BESIDE_THE_LOG, BackupMetrics, Standing, read
from services.common.clock import Clock

REQUEST = "prune-request"
ANSWER = "prune-answer"
INTERVAL_S = 3_600.0
BACKED_UP = ("keys", "side-store")
"""What is backed up on the machine of a log."""

_FIRST_S = 60.0
_POLL_S = 1.0
_AT_ONCE = 4_096

_log = structlog.get_logger()


class PruneRequest(msgspec.Struct):
    """What `weaver audit prune` asks of the service that writes the log."""

    token: str
    days: int


class PruneAnswer(msgspec.Struct):
    """What came of it."""

    token: str
    minimum: int = 0
    before: int = 0
    error: str = ""


class _Pruner:
    """Prunes each hour, and when a request lies beside the log."""

    def __init__(
        self, settings: AuditSettings, layout: Layout, retention: Retention, minimum: Minimum
    ) -> None:
        """Prepare."""
        self._days = settings.retention_days
        self._archived_only = not settings.retention_unarchived
        self._request = layout.private / REQUEST
        self._answer = layout.private / ANSWER
        self._retention = retention
        self._minimum = minimum

    async def run(self, clock: Clock, failed: Callable[[Exception], None]) -> None:
        """Go on until cancelled; a failure is told, and tried again later."""
        due = clock.monotonic() + _FIRST_S
        while True:
            request = await asyncio.to_thread(self._read)
            if request is not None:
                await self._serve(request, failed)
            elif clock.monotonic() >= due:
                due = clock.monotonic() + INTERVAL_S
                if self._days:
                    await self._prune(self._days, failed)
            await asyncio.sleep(_POLL_S)

    async def _serve(self, request: PruneRequest, failed: Callable[[Exception], None]) -> None:
        before = self._minimum()
        error = await self._prune(request.days, failed)
        answer = PruneAnswer(request.token, self._minimum(), before, error)
        try:
            await asyncio.to_thread(write_message, self._answer, answer)
        except OSError as refused:
            failed(refused)

    async def _prune(self, days: int, failed: Callable[[Exception], None]) -> str:
        before = self._minimum()
        try:
            end = await self._retention.prune(Rule(days, self._archived_only))
        except (OSError, ValueError, sqlite3.Error) as error:
            failed(error)
            return str(error)
        if end > before:
            _log.info("audit_pruned", first=before, end=end, days=days)
        return ""

    def _read(self) -> PruneRequest | None:
        try:
            data = self._request.read_bytes()
            self._request.unlink()
            return msgspec.json.decode(data, type=PruneRequest)
        except (OSError, msgspec.DecodeError):
            return None


def start_retention(  # noqa: PLR0913 - what pruning touches
    stack: AsyncExitStack,
    *,
    settings: AuditSettings,
    layout: Layout,
    tiles: TileDirectory,
    log: Log,
    minimum: Minimum,
    events: OwnEvents,
    index: FollowingIndex,
    store: SideStore,
    registry: CollectorRegistry,
    clock: Clock,
) -> None:
    """Finish what the last process began, and prune in the background; the stack ends it."""
    failures = _metrics(registry, layout, minimum)

    def failed(error: Exception) -> None:
        failures.inc()
        _log.error("audit_pruning_failed", error=str(error))

    def forget_index(_first: int, end: int) -> None:
        index.forget(end)

    def forget_side_store(first: int, end: int) -> None:
        for start in range(first, end, _AT_ONCE):
            indexes = range(start, min(end, start + _AT_ONCE))
            store.keys.erase(indexes)
            store.texts.erase(indexes)

    async def announce(attributes: dict[str, str]) -> int | None:
        return await events.record("administration", attributes)

    retention = Retention(
        layout=layout,
        tiles=tiles,
        log=log,
        minimum=minimum,
        announce=announce,
        forget=(forget_index, forget_side_store),
        clock=clock,
    )
    pruner = _Pruner(settings, layout, retention, minimum)
    task = asyncio.create_task(_run(retention, pruner, clock, failed))
    stack.push_async_callback(_end, task)


def write_message(path: Path, message: msgspec.Struct) -> None:
    """Write a message for another process, whole or not at all.

    Raises:
        OSError: the disk refuses.
    """
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(msgspec.json.encode(message))
    temporary.rename(path)


async def _run(
    retention: Retention, pruner: _Pruner, clock: Clock, failed: Callable[[Exception], None]
) -> None:
    try:
        await retention.finish()
    except (OSError, sqlite3.Error) as error:
        failed(error)
    await pruner.run(clock, failed)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _metrics(registry: CollectorRegistry, layout: Layout, minimum: Minimum) -> Counter:
    kept = Gauge(
        "audit_retention_first_record", "The first record that is kept.", registry=registry
    )
    kept.set_function(minimum)
    when = Gauge(
        "audit_archive_last_success_time_seconds",
        "When the log was last archived and the copy proven, in Unix seconds; 0 for never.",
        registry=registry,
    )
    when.set_function(lambda: _archived(layout)[0])
    size = Gauge(
        "audit_archive_records", "Records that the last good archive holds.", registry=registry
    )
    size.set_function(lambda: _archived(layout)[1])
    registry.register(BackupMetrics(BACKED_UP, lambda: _backups(layout)))
    return Counter("audit_retention_failures", "Attempts to prune that failed.", registry=registry)


def _backups(layout: Layout) -> dict[str, Standing]:
    try:
        return read((layout.private / BESIDE_THE_LOG).read_bytes())
    except OSError:
        return {}


def _archived(layout: Layout) -> tuple[float, int]:
    found = read_archived(layout)
    if found is None:
        return 0.0, 0
    try:
        return datetime.fromisoformat(found.time).timestamp(), found.size
    except ValueError:
        return 0.0, 0
