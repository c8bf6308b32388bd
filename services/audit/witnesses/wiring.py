"""From settings to witnesses that are asked in the background."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry

from services.audit.checkpoint import SignedCheckpoint
from services.audit.history import History
from services.audit.layout import Layout
from services.audit.log import Log
from services.audit.merkle import consistency_proof
from services.audit.settings import AuditSettings
from services.audit.tiles import TileDirectory, TileReader
from services.audit.verification.inventory import WITNESSED
from services.audit.witnesses.client import check_urls, open_session, transports
from services.audit.witnesses.metrics import WitnessMetrics
from services.audit.witnesses.policy import Policy, PolicyError, parse_policy
from services.audit.witnesses.witnessed import Witnessed
from services.audit.witnesses.witnessing import Witnessing
from services.common.clock import Clock
from services.common.health import Health
from services.common.settings import SettingsError

_log = structlog.get_logger()


class Witnesses:
    """What the settings say of witnesses, checked before the log is opened.

    Args:
        settings: the service's.
        layout: where the log lies.

    Raises:
        SettingsError: the policy is bad.
    """

    def __init__(self, settings: AuditSettings, layout: Layout) -> None:
        """See the class."""
        self._settings = settings
        self._layout = layout
        self._policy = load_policy(settings)
        self._kept: Witnessed | None = None

    def newest(self) -> SignedCheckpoint | None:
        """Return the newest checkpoint that the quorum cosigned."""
        return None if self._kept is None else self._kept.newest

    async def start(  # noqa: PLR0913 - what cosigning needs of its surroundings
        self,
        stack: AsyncExitStack,
        *,
        log: Log,
        tiles: TileDirectory,
        registry: CollectorRegistry,
        health: Health,
        clock: Clock,
    ) -> None:
        """Begin to ask; whatever ends the stack ends it.

        Raises:
            SettingsError: the certificates to trust cannot be read.
        """
        history = History(self._layout.private / "witnessed.jsonl")
        kept = Witnessed(self._layout.log / WITNESSED, self._layout.scratch, history)
        self._kept = kept
        if self._policy is None:
            return
        try:
            session = open_session(self._settings.witness_ca)
        except OSError as error:
            msg = f"WEAVER_AUDIT_WITNESS_CA: {error.strerror or error}"
            raise SettingsError(msg) from None
        stack.push_async_callback(session.close)
        stack.callback(history.flush)
        reached = transports(self._policy, session)

        async def prove(old: int, size: int) -> Sequence[bytes]:
            reader = TileReader(tiles, size)
            return await asyncio.to_thread(consistency_proof, reader, old, size)

        async def keep(signed: SignedCheckpoint, quorum: bool) -> None:  # noqa: FBT001 - the port's
            if quorum:
                await asyncio.to_thread(kept.keep, signed, clock.time())
            await log.amend(signed)

        witnessing = Witnessing(
            policy=self._policy,
            transports=reached,
            newest=lambda: log.checkpoint,
            prove=prove,
            keep=keep,
            clock=clock,
            observer=WitnessMetrics(registry, health, clock, list(reached)),
            interval_s=self._settings.witness_interval_s,
        )
        task = asyncio.create_task(witnessing.run())
        task.add_done_callback(_report)
        stack.push_async_callback(_end, task)


def load_policy(settings: AuditSettings) -> Policy | None:
    """Return the policy that the settings name.

    Raises:
        SettingsError: it cannot be read, or is none that witnesses can be asked by.
    """
    path = settings.witness_policy
    if path is None:
        return None
    try:
        policy = parse_policy(path.read_bytes())
        check_urls(policy)
    except (OSError, PolicyError) as error:
        detail = error.strerror if isinstance(error, OSError) else error
        msg = f"WEAVER_AUDIT_WITNESS_POLICY: {path}: {detail}."
        raise SettingsError(msg) from None
    return policy


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    """Say so if the rounds end by themselves: that is a defect, and the log goes on without."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("audit_witnessing_ended", error=repr(error))
