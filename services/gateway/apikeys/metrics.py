"""Tells metrics, health, logs and the audit log of API keys; each label has a few values."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from services.common.health import Health
from services.gateway.apikeys.key import ApiKey

DEPENDENCY: Final = "api_key_store"
_LOOKUPS: Final = (
    "found",
    "unknown",
    "disabled",
    "expired",
    "rotated",
    "mistyped",
    "refused_again",
    "unavailable",
)
_SHOWN: Final = 10

_log = structlog.get_logger()


class KeyReports:
    """The port `Observer`.

    Args:
        registry: the service's metrics.
        health: the service's health; the store is a dependency of it.
        record: records a change that no gateway made; must not block.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        health: Health,
        record: Callable[[Mapping[str, str]], None],
    ) -> None:
        """See the class."""
        self._health = health
        self._record = record
        self._up = Gauge(
            "weaver_api_key_store_up",
            "Whether the store of managed API keys answers.",
            registry=registry,
        )
        lookups = Counter(
            "weaver_api_key_lookups",
            "Managed API keys that were not at hand, by what became of them.",
            ["result"],
            registry=registry,
        )
        self._lookups = {result: lookups.labels(result) for result in _LOOKUPS}
        self._regressed = Counter(
            "weaver_api_key_regressions",
            "Keys of which the store was found to have an older version than was seen here.",
            registry=registry,
        )
        self._changes = Counter(
            "weaver_api_key_changes",
            "Changes of managed API keys that administrators made here.",
            ["action"],
            registry=registry,
        )
        self._unconfirmed = Counter(
            "weaver_api_key_changes_unconfirmed",
            "Those of them that no replica or disk confirmed in time.",
            registry=registry,
        )
        self._elsewhere = Counter(
            "weaver_api_key_changes_past_gateway",
            "Changes that were made in the store itself, past every gateway.",
            registry=registry,
        )
        self._registry = registry

    def watch_sizes(self, known: Callable[[], int], seen: Callable[[], int]) -> None:
        """Show how many keys are at hand, and how many are remembered."""
        sizes = Gauge(
            "weaver_api_keys",
            "Managed API keys: at hand for calls, and remembered with their versions.",
            ["kept"],
            registry=self._registry,
        )
        sizes.labels("at_hand").set_function(known)
        sizes.labels("remembered").set_function(seen)

    def looked_up(self, result: str) -> None:
        """Count a look-up."""
        self._lookups[result].inc()

    def store_changed(self, up: bool, detail: str) -> None:  # noqa: FBT001 - a state
        """Take note that the store came or went."""
        self._up.set(up)
        before = self._health.snapshot().get(DEPENDENCY)
        self._health.set(DEPENDENCY, up, detail)
        if before is None or before[0] != up:
            _log.log(20 if up else 40, "store of API keys", up=up, detail=detail)

    def regressed(self, ids: Sequence[str]) -> None:
        """Take note that the store has older versions of keys than it had."""
        self._regressed.inc(len(ids))
        _log.error(
            "the store of API keys has lost changes; it gets them back",
            keys=len(ids),
            some=list(ids[:_SHOWN]),
        )

    def changed(self, action: str, *, safe: bool) -> None:
        """Count a change that an administrator made."""
        self._changes.labels(action).inc()
        if not safe:
            self._unconfirmed.inc()
            _log.error("a change of an API key is confirmed by no replica or disk", action=action)

    def changed_elsewhere(self, key: ApiKey) -> None:
        """Take note of a change that was made in the store, past every gateway."""
        self._elsewhere.inc()
        self._record(
            {
                "setting": "api_key",
                "key": key.id,
                "tenant": key.tenant,
                "version": str(key.version),
                "state": "disabled" if key.disabled else "enabled",
                "roles": " ".join(key.roles)[:256],
                "by": key.changed_by[:256],
            }
        )
