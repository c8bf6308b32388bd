"""From settings to managed keys that are followed."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec

from services.common.clock import Clock
from services.common.settings import SettingsError
from services.common.valkey_settings import location
from services.gateway.apikeys.administration import Administration
from services.gateway.apikeys.cache import KeyCache
from services.gateway.apikeys.follower import Follower
from services.gateway.apikeys.metrics import KeyReports
from services.gateway.apikeys.seen import Seen
from services.gateway.apikeys.settings import ApiKeySettings
from services.gateway.apikeys.valkey_store import ValkeyStore

CLIENT = "weaver-api-keys"


class ManagedKeys(msgspec.Struct, frozen=True):
    """Managed keys, ready for use: for callers, and for administrators."""

    cache: KeyCache
    administration: Administration
    reports: KeyReports


async def open_keys(
    settings: ApiKeySettings, stack: AsyncExitStack, clock: Clock, reports: KeyReports
) -> ManagedKeys:
    """Return the managed keys; a store that is down is no error.

    Args:
        settings: where the store is.
        stack: stops what follows it.
        clock: for times.
        reports: is told of everything.

    Raises:
        SettingsError: the address of the store is none, or its CA cannot be read.
    """
    store = open_store(settings, reports.store_changed)
    seen = Seen(settings.api_key_cache)
    cache = KeyCache(store, seen, reports, clock)
    reports.watch_sizes(lambda: len(cache), lambda: len(seen))
    follower = Follower(
        store, seen, cache, reports, clock, stale_after_s=settings.api_key_stale_seconds
    )
    await store.start()
    stack.push_async_callback(store.close)
    await follower.look()
    following = asyncio.create_task(follower.follow())
    stack.push_async_callback(_end, following)
    administration = Administration(store, seen, follower.give_back, clock)
    return ManagedKeys(cache, administration, reports)


def open_store(settings: ApiKeySettings, on_change: Callable[[bool, str], None]) -> ValkeyStore:
    """Return the store, not yet connected.

    Raises:
        SettingsError: its address is none, or its CA cannot be read.
    """
    timeout_s = settings.api_key_store_timeout_ms / 1000
    try:
        place = location(settings.key_store, client=CLIENT, timeout_s=timeout_s)
    except SettingsError as error:
        if not settings.api_key_store.get_secret_value():
            raise
        msg = f"WEAVER_API_KEY_STORE: {error}"
        raise SettingsError(msg) from None
    return ValkeyStore(place, timeout_s=timeout_s, on_change=on_change)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
