"""From settings to the cache before a generator."""

from collections.abc import Callable
from contextlib import AsyncExitStack

import structlog

from services.common.audit_trail import AuditTrail
from services.common.clock import Clock
from services.model.cache.caching import CachePolicy, Caching
from services.model.cache.entry import Seal
from services.model.cache.ports import CacheMeter
from services.model.cache.settings import CacheSettings, cache_place, cache_secret
from services.model.cache.valkey_store import ValkeyStore
from services.model.generation import Generator
from services.model.ports import Health

DEPENDENCY = "cache"

_log = structlog.get_logger()


async def cached(  # noqa: PLR0913 - each is one neighbour
    settings: CacheSettings,
    generator: Generator,
    stack: AsyncExitStack,
    *,
    clock: Clock,
    meter: CacheMeter,
    health: Health,
    trail: AuditTrail,
) -> Caching:
    """Return the cache before a generator; the stack disconnects it."""
    store = ValkeyStore(
        cache_place(settings),
        timeout_s=settings.cache_timeout_ms / 1000,
        max_bytes=settings.cache_max_bytes,
        clock=clock,
        meter=meter,
        on_change=_teller(health, trail),
    )
    await store.start()
    stack.push_async_callback(store.close)
    policy = CachePolicy(float(settings.cache_ttl_seconds), settings.cache_max_entry_bytes)
    return Caching(
        generator, store, Seal(cache_secret(settings)), policy=policy, clock=clock, meter=meter
    )


def _teller(health: Health, trail: AuditTrail) -> Callable[[bool, str], None]:
    """Return what tells health, the log and the audit log of the store, once for each change."""
    was = True

    def tell(up: bool, detail: str) -> None:  # noqa: FBT001 - its form
        nonlocal was
        health.set(DEPENDENCY, up, "" if up else detail)
        if up is was:
            return
        was = up
        level = _log.info if up else _log.warning
        level("cache serves" if up else "cache is away", detail=detail)
        about = {"dependency": DEPENDENCY}
        trail.degraded(entered=not up, attributes=about if up else about | {"reason": detail[:200]})

    return tell
