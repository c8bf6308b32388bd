"""The wiring of signing keys: from settings to who signs, and the watch over their files."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from services.audit.events import OwnEvents
from services.audit.keys.archive import DAY_S, ArchiveError, KeyArchive, load_archive, rfc3339
from services.audit.keys.first_use import FILE, FirstUse, FirstUses, check_environment
from services.audit.keys.keyring import KeyRing, Terms
from services.audit.keys.metrics import KeyMetrics
from services.audit.keys.rotation import Rotation
from services.audit.keys.settings import sources
from services.audit.keys.source import LoadedKey
from services.audit.keys.watch import KeyWatch
from services.audit.layout import Layout
from services.audit.log import Log
from services.audit.note import VerifierKey
from services.audit.settings import AuditSettings
from services.common.clock import Clock
from services.common.health import Health


class SigningKeys:
    """The keys of one log, from the start to the end of the service.

    Args:
        settings: where the keys are.
        layout: where the archive is.
        clock: for times.
        registry: for metrics.
        health: the service's health.

    Raises:
        ArchiveError: the archive is damaged.
    """

    def __init__(
        self,
        settings: AuditSettings,
        layout: Layout,
        clock: Clock,
        registry: CollectorRegistry,
        health: Health,
    ) -> None:
        """See the class."""
        self._settings = settings
        self._archive_path = layout.keys
        self._clock = clock
        self._observer = KeyMetrics(registry, health, clock)
        self._sources = sources(settings, made_time=rfc3339(clock.time()))
        self._first_uses = FirstUses(
            settings.keys_path / FILE,
            [path for path in layout.keys.parent.glob("*.keys") if path != layout.keys],
        )
        origin = settings.log_origin
        self.archive = load_archive(layout.keys) if layout.keys.exists() else KeyArchive(origin)
        self.ring = KeyRing()
        terms = Terms(settings.environment, settings.key_grace_days * DAY_S, socket.gethostname())
        self._rotation = Rotation(
            self.archive, layout.keys, self.ring, clock, terms, self._observer
        )
        self._loaded: Sequence[LoadedKey] = ()
        self._watch: KeyWatch | None = None

    @property
    def known(self) -> list[VerifierKey]:
        """Every key that ever signed or is about to."""
        return [*self.archive.verifiers, *(key.signer.verifier for key in self._loaded)]

    def load(self, *, start: bool = True) -> Sequence[LoadedKey]:
        """Load the keys and check that they may sign here; blocks.

        Args:
            start: whether development's missing keys are made.

        Raises:
            KeyProblem: one cannot be used; the message names the variable.
        """
        self._loaded = [source.load(start=start) for source in self._sources]
        for key in self._loaded:
            verifier = key.signer.verifier
            if self._settings.production:
                uses = self._first_uses.find(verifier.fingerprint, self.archive)
                check_environment(
                    key.source,
                    verifier.fingerprint,
                    key.provenance.environment,
                    self._settings.environment,
                    uses,
                )
        return self._loaded

    def prepare(self, size: int) -> None:
        """Let the loaded keys sign; blocks.

        Args:
            size: how many records the tree has.

        Raises:
            ArchiveError: the archive is another log's, or gone.
            KeyProblem: a key was retired.
            OSError: the archive cannot be written.
        """
        if self.archive.origin != self._settings.log_origin:
            msg = (
                f"WEAVER_AUDIT_ORIGIN: the archive of keys is of the log {self.archive.origin}, "
                f"not {self._settings.log_origin}. A log keeps its origin."
            )
            raise ArchiveError(msg)
        if size and not self.archive.keys:
            # A new one would say that no key was in force before, and so convict the log.
            msg = (
                f"{self._archive_path} is missing or empty, and the log has {size} records: put a "
                f"copy of it back, from a backup or from where `weaver audit archive` copies to. "
                f"Where there is none, move the log away and begin another."
            )
            raise ArchiveError(msg)
        self._rotation.prepare(self._loaded, size)
        self._remember()

    async def begin(self, log: Log, events: OwnEvents, stack: AsyncExitStack) -> None:
        """Record what changed, and watch the keys' files until the stack closes."""

        async def take(keys: Sequence[LoadedKey]) -> bool:
            taken = await self._rotation.change(keys, log, events)
            if taken:
                await asyncio.to_thread(self._remember)
            return taken

        await self._rotation.complete(log, events)
        self._watch = KeyWatch(
            sources=[source for source in self._sources if source.changeable],
            load=lambda: self.load(start=False),
            take=take,
            finish=lambda: self._rotation.complete(log, events),
            observer=self._observer,
            interval_s=self._settings.key_poll_seconds,
        )
        self._observer.looked()
        self._observer.accepted()
        task = asyncio.create_task(self._watch.run())

        async def stop() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        stack.push_async_callback(stop)

    def reload(self) -> None:
        """Look at the keys' files now: SIGHUP."""
        if self._watch is not None:
            self._watch.hurry()

    def _remember(self) -> None:
        """Take note of where the keys are used, and warn of short ones."""
        settings = self._settings
        use = FirstUse(settings.environment, settings.log_origin, rfc3339(self._clock.time()))
        self._first_uses.remember([key.signer.verifier.fingerprint for key in self._loaded], use)
        for key in self._loaded:
            if key.weak and settings.production:
                self._observer.short(key.source)
