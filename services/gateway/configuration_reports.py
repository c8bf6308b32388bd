"""Tells health, metrics, logs and the audit log of files and keys that were read again."""

from collections.abc import Callable, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.health import Health

_log = structlog.get_logger()


class ConfigurationReports:
    """Hears what becomes of the gateway's configuration while it runs.

    Args:
        registry: the service's metrics.
        health: the service's health; each of these is a dependency of it.
        record: records a change of configuration; must not block.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        record: Callable[[Mapping[str, str]], None],
    ) -> None:
        """See the class."""
        self._registry = registry
        self._health = health
        self._record = record
        reads = Counter(
            "weaver_gateway_configuration_reads",
            "Changed files and keys of the gateway, by what became of them.",
            ["setting", "result"],
            registry=registry,
        )
        self._good = Gauge(
            "weaver_gateway_configuration_good",
            "Whether what decides is what the file or the issuer says now.",
            ["setting"],
            registry=registry,
        )
        self._reads = reads

    def watch_age(self, age_s: Callable[[], float]) -> None:
        """Show how old the issuer's keys are."""
        Gauge(
            "weaver_gateway_jwks_age_seconds",
            "How long ago the issuer's keys were last read; infinite before.",
            registry=self._registry,
        ).set_function(age_s)

    def keys_read(self, source: str, problem: str, before: str, now: str) -> None:
        """Take note of keys that verify tokens; `problem` is empty where they are good."""
        self._read(f"jwt_keys.{source}", problem, before, now)

    def roles_read(self, problem: str, before: str, now: str) -> None:
        """Take note of the file of roles, likewise."""
        self._read("roles", problem, before, now)

    def content_policy_read(self, problem: str, before: str, now: str) -> None:
        """Take note of the content policy, likewise."""
        self._read("content_policy", problem, before, now)

    def _read(self, setting: str, problem: str, before: str, now: str) -> None:
        good = not problem
        self._health.set(setting, good, problem)
        self._good.labels(setting).set(good)
        if not before and good:
            return  # It was read for the first time.
        self._reads.labels(setting, "good" if good else "refused").inc()
        if problem:
            _log.error("configuration refused", setting=setting, problem=problem, keeps=now)
            self._record({"setting": setting, "refused": problem[:500], "keeps": now})
        elif before != now:
            _log.info("configuration changed", setting=setting, before=before, now=now)
            self._record({"setting": setting, "before": before, "now": now})
        else:
            _log.info("configuration is good again", setting=setting, version=now)
