"""From settings to a service that is ready: keys, recovery, log, stores, servicer."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry

from services.audit import identities
from services.audit.archives.pruning import recorded_pruning
from services.audit.archives.retention import Minimum
from services.audit.archives.wiring import start_retention
from services.audit.checkpoint import SignedCheckpoint
from services.audit.commit import Limits
from services.audit.configuration import Configurations
from services.audit.events import OwnEvents
from services.audit.following import FollowingIndex
from services.audit.following_wiring import follow
from services.audit.history import History
from services.audit.integration import Integrator
from services.audit.keys.archive import ArchiveError
from services.audit.keys.signers import KeyProblem
from services.audit.keys.wiring import SigningKeys
from services.audit.layout import Layout, LayoutError
from services.audit.log import Log
from services.audit.merkle import leaf_hash
from services.audit.metrics import DiskSpace, LogMetrics
from services.audit.note import NoteSigner, VerifierKey
from services.audit.ports import Entry
from services.audit.reader import Reader
from services.audit.record import summarise
from services.audit.recovery import DamagedLog, Tree, accept, open_tree
from services.audit.servicer import AuditServicer
from services.audit.settings import AuditSettings
from services.audit.sidestore.naming import Naming
from services.audit.sidestore.store import SideStore
from services.audit.sidestore.vault import VaultError
from services.audit.sidestore.wiring import eraser, make_current, open_side_store, recall
from services.audit.tiles import TileDirectory
from services.audit.verification.inventory import LogDirectory
from services.audit.verification.wiring import start_monitor
from services.audit.wal import DamagedWAL, WriteAheadLog
from services.audit.witnesses.wiring import Witnesses
from services.common.clock import Clock, SystemClock
from services.common.component import Component
from services.common.fingerprint import start_attributes
from services.common.health import Health
from services.common.settings import SettingsError
from weaver.audit.v1 import audit_service_pb2, audit_service_pb2_grpc

_log = structlog.get_logger()

_FIRST_CHECKPOINT_S = 10.0


async def build(
    settings: AuditSettings, stack: AsyncExitStack, *, clock: Clock | None = None
) -> Component:
    """Open the log, whatever the last process left behind, and return the service over it.

    Raises:
        SettingsError: a key or directory cannot be used, or the log is damaged.
    """
    clock = clock or SystemClock()
    health = Health()
    registry = CollectorRegistry()
    metrics = LogMetrics(registry, health, clock)
    layout = Layout(settings.log_path)
    DiskSpace(registry, layout.log)
    witnesses = Witnesses(settings, layout)
    origin = settings.log_origin
    try:
        layout.create()
        stack.callback(os.close, layout.acquire())
        keys = SigningKeys(settings, layout, clock, registry, health)
        await asyncio.to_thread(keys.load)
        store = await asyncio.to_thread(open_side_store, settings, layout)
        stack.callback(store.close)
        opened = await asyncio.to_thread(_Opened, layout, origin, keys.known, store)
        stack.callback(opened.close)
        await asyncio.to_thread(keys.prepare, opened.size)
    except (LayoutError, KeyProblem, ArchiveError, DamagedLog, DamagedWAL, VaultError) as error:
        raise SettingsError(str(error)) from None
    except (OSError, sqlite3.Error) as error:
        raise _refused(settings, error) from None
    log = opened.log(keys.ring.signers, clock, metrics, settings)
    log.start()
    stack.push_async_callback(log.close)
    instance = _instance(settings.replica)
    events = OwnEvents(log, instance, clock, after=opened.newest_epoch(instance))
    try:
        await keys.begin(log, events, stack)
    except OSError as error:
        raise _refused(settings, error) from None
    size, configurations = log.size, Configurations(events)
    await _announce(events, configurations, settings, size, stack)
    await log.wait_integrated(log.size, _FIRST_CHECKPOINT_S)
    await witnesses.start(
        stack, log=log, tiles=opened.tiles, registry=registry, health=health, clock=clock
    )
    metrics.ready()
    reader = Reader(
        log,
        opened.tiles,
        opened.index,
        keys.archive,
        witnessed=witnesses.newest,
        minimum=opened.minimum,
    )
    orders = eraser(store, events, log, reader)

    async def catch_up() -> None:
        await recall(configurations, reader, size)
        await make_current(store, orders, log, health)

    await follow(opened.index, catch_up, health, stack)
    start_monitor(
        stack,
        settings=settings,
        layout=layout,
        archive=keys.archive,
        registry=registry,
        health=health,
        clock=clock,
        # The monitor believes the log alone, as any verifier does.
        pruned=lambda: recorded_pruning(LogDirectory(layout.log)),
    )
    start_retention(
        stack,
        settings=settings,
        layout=layout,
        tiles=opened.tiles,
        log=log,
        minimum=opened.minimum,
        events=events,
        index=opened.index,
        store=store,
        registry=registry,
        clock=clock,
    )
    naming = Naming(store.callers, pseudonyms=settings.pseudonyms)
    servicer = AuditServicer(origin, log, reader, store, naming, orders, configurations)
    return Component(
        name="audit",
        services=(audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name,),
        register=lambda server: audit_service_pb2_grpc.add_AuditServiceServicer_to_server(
            servicer, server
        ),
        health=health,
        metrics=registry,
        reload=keys.reload,
    )


async def _announce(
    events: OwnEvents,
    configurations: Configurations,
    settings: AuditSettings,
    size: int,
    stack: AsyncExitStack,
) -> None:
    """Write the start into the log, and have the end written too."""
    origin = settings.log_origin
    started = {**start_attributes("audit", settings), "origin": origin, "size": str(size)}
    await events.record("service_started", started)
    await configurations.started("audit", started)
    stopped = {"service": "audit", "origin": origin}
    stack.push_async_callback(events.record, "service_stopped", stopped, tries=2)


class _Opened:
    """What lies on disk, opened; the log's parts before it runs."""

    def __init__(
        self,
        layout: Layout,
        origin: str,
        keys: Sequence[VerifierKey],
        store: SideStore,
    ) -> None:
        """Recover; blocks on the disk."""
        self._layout = layout
        self._origin = origin
        self.minimum = Minimum(layout)
        self._history = History(layout.history)
        self.tiles = TileDirectory(layout.log, layout.scratch)
        self._tree: Tree = open_tree(layout, self.tiles, origin, keys)
        size = self._tree.edge.size
        self._store = store
        self._wal = WriteAheadLog(layout.wal)
        self._behind = self._replay(size)
        self._wal.begin()
        self.index = FollowingIndex(layout.index, self.tiles, size, self.minimum)
        self._deduplication = identities.load(
            layout, self.tiles, size, self._behind, self.minimum()
        )

    def log(
        self,
        signers: Callable[[], Sequence[NoteSigner]],
        clock: Clock,
        metrics: LogMetrics,
        settings: AuditSettings,
    ) -> Log:
        """Return the log, not yet started."""
        integrator = Integrator(
            origin=self._origin,
            tiles=self.tiles,
            checkpoint_path=self._layout.checkpoint,
            signers=signers,
            edge=self._tree.edge,
            bundle=self._tree.bundle,
        )
        return Log(
            wal=self._wal,
            integrator=integrator,
            deduplication=self._deduplication,
            stores=(self._store.keys, self.index),
            accept=lambda checkpoint: self._accept(checkpoint, clock.time()),
            remember=lambda snapshot: identities.save(self._layout, snapshot),
            checkpoint=self._tree.checkpoint,
            behind=self._behind,
            clock=clock,
            observer=metrics,
            limits=Limits(
                max_pending=settings.max_pending,
                checkpoint_interval_s=settings.checkpoint_interval_ms / 1000,
            ),
        )

    def newest_epoch(self, instance: str) -> int:
        """Return the newest boot of an instance that the log remembers."""
        return self._deduplication.newest_epoch(instance)

    @property
    def size(self) -> int:
        """How many records the tree has."""
        return self._tree.edge.size

    def close(self) -> None:
        """Close the databases, and write the last checkpoint down."""
        try:
            self._history.flush()
        except OSError as error:  # A checkpoint less to hold a later log to; the log is whole.
            _log.error("audit_disk_refuses", operation="history", error=str(error))
        self.index.close()

    def _accept(self, checkpoint: SignedCheckpoint, now: float) -> None:
        accept(self._layout, checkpoint)
        self._history.take(checkpoint, now)

    def _replay(self, size: int) -> list[Entry]:
        """Return the durable records behind the tree; give the side store what it missed."""
        behind: list[Entry] = []
        kept = self._store.keys
        start = min(size, max(kept.size, self._wal.oldest))
        if start > kept.size:
            self._store.missing(kept.size, start)
        for frame in self._wal.replay(start):
            entries = [
                Entry(data, leaf_hash(data), summarise(data).id, key) for data, key in frame.items
            ]
            old = entries[: max(0, size - frame.first_index)]
            if old:
                kept.apply(frame.first_index, old)
            behind.extend(entries[len(old) :])
        self._wal.durable = max(self._wal.durable, size)
        kept.limit(self._wal.durable)
        return behind


def _refused(settings: AuditSettings, error: OSError | sqlite3.Error) -> SettingsError:
    """Return why the service cannot start when the disk refuses."""
    path = getattr(error, "filename", None) or settings.log_path
    reason = getattr(error, "strerror", None) or error
    return SettingsError(f"WEAVER_AUDIT_PATH: {path}: {reason}.")


def _instance(replica: str) -> str:
    return replica if replica == "audit" or replica.startswith("audit-") else f"audit-{replica}"
