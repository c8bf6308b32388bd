"""From settings to a monitor that runs, with its metrics, its health and its loud log line."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.audit.checkpoint import SignedCheckpoint, parse_signed_checkpoint
from services.audit.keys.archive import KeyArchive
from services.audit.keys.signatures import Keys
from services.audit.layout import Layout
from services.audit.note import NoteError
from services.audit.settings import AuditSettings
from services.audit.verification.interrupted import InterruptedIntents
from services.audit.verification.monitor import Monitor
from services.audit.verification.offline import published_before
from services.audit.verification.report import Finding, Report
from services.common.clock import Clock
from services.common.health import Health

NAME = "verification"
_SHOWN = 5
_MAX_HISTORY = 1_000

_log = structlog.get_logger()


class MonitorMetrics:
    """Turns what the monitor finds into metrics, health and log lines.

    Args:
        registry: the service's registry.
        health: the service's health; `verification` follows the last verdict.
        clock: for the time of the last success.
        loop: where health is set.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """See the class."""
        self._health = health
        self._clock = clock
        self._loop = loop
        self._failures = Counter(
            "audit_verification_failures",
            "Verifications of the log on disk that failed.",
            registry=registry,
        )
        self._success = Gauge(
            "audit_verification_last_success_time_seconds",
            "When the newest records were last verified without a finding, in Unix seconds.",
            registry=registry,
        )
        self._whole = Gauge(
            "audit_verification_last_pass_time_seconds",
            "When the whole log was last verified without a finding, in Unix seconds.",
            registry=registry,
        )
        self._records = Gauge(
            "audit_verification_verified_records",
            "Records under the newest checkpoint that verified.",
            registry=registry,
        )

        self._interrupted = InterruptedIntents(clock)
        registry.register(self._interrupted)

    def verified(self, report: Report, *, whole: bool) -> None:
        """Nothing speaks against the log."""
        if not whole:  # A pass over the whole log leaves this to the looks at what is new.
            self._interrupted.look(index for index, _ in report.interrupted)
        self._success.set(self._clock.time())
        self._records.set(report.size)
        if whole:
            self._whole.set(self._clock.time())
        self._set(good=True)

    def verification_failed(self, report: Report, findings: Sequence[Finding]) -> None:
        """The log is damaged or incomplete: say it as loudly as a service can."""
        self._failures.inc()
        _log.critical(
            "audit_verification_failed",
            origin=report.origin,
            records=report.size,
            since=report.since,
            first_bad_index=report.first_bad_index,
            findings=[f"{f.verdict}: {f.kind}: {f.message}" for f in findings[:_SHOWN]],
            more=max(0, len(findings) - _SHOWN),
            advice="Keep the disk as it is; run `weaver audit verify` with keys of your own.",
        )
        damage = [f for f in findings if f.verdict != "completeness"]
        if damage:
            self._set(good=False, detail=f"{damage[0].kind}: {damage[0].message}")

    def verification_broke_off(self, error: Exception) -> None:
        """The log could not be read: no verdict, but nothing to be calm about."""
        self._failures.inc()
        _log.error("audit_verification_broke_off", error=str(error), type=type(error).__name__)
        self._set(good=False, detail="the log could not be read")

    def _set(self, *, good: bool, detail: str = "") -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._health.set, NAME, good, detail)


def start_monitor(  # noqa: PLR0913 - what it needs of the service
    stack: AsyncExitStack,
    *,
    settings: AuditSettings,
    layout: Layout,
    archive: KeyArchive,
    registry: CollectorRegistry,
    health: Health,
    clock: Clock,
    pruned: Callable[[], int],
) -> None:
    """Start the monitor unless it is switched off; the stack ends it."""
    if not settings.monitor_interval_s:
        return
    monitor = Monitor(
        layout.log,
        keys=lambda: Keys(archive),
        history=_history(layout),
        observer=MonitorMetrics(registry, health, clock, asyncio.get_running_loop()),
        clock=clock,
        interval_s=settings.monitor_interval_s,
        share=settings.monitor_cpu_percent / 100,
        pruned=pruned,
    )
    health.set(NAME, True)  # noqa: FBT003 - health's own signature
    monitor.start()
    stack.push_async_callback(asyncio.to_thread, monitor.close)


def _history(layout: Layout) -> Callable[[bool], Sequence[SignedCheckpoint]]:
    """Return what reads checkpoints that were published, a thousand of them at most."""

    def read(whole: bool) -> Sequence[SignedCheckpoint]:  # noqa: FBT001 - the monitor's port
        try:
            if not whole:
                return [parse_signed_checkpoint(layout.accepted.read_bytes())]
            found = published_before(layout.log)
        except FileNotFoundError:
            return []
        except NoteError as error:
            msg = f"what was published before cannot be read: {error}"
            raise OSError(msg) from None
        apart = -(-len(found) // _MAX_HISTORY) or 1
        return [*found[:-1:apart], *found[-1:]]

    return read
