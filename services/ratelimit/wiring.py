"""From settings to a component: the store, the limiter, and who is told when the store is down."""

import secrets
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from services.common.audit_trail import AuditTrail, open_trail
from services.common.backups import BackupMetrics, Standing
from services.common.clock import SystemClock
from services.common.component import Component
from services.common.health import Health
from services.common.local import LocalChannel
from services.common.operator_file import OperatorFileError
from services.common.settings import SettingsError
from services.common.valkey_settings import location
from services.ratelimit import defaults
from services.ratelimit.degradation import Degradation
from services.ratelimit.envoy import EnvoyServicer
from services.ratelimit.limiter import Limiter
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.metrics import Metrics
from services.ratelimit.policy import Policy
from services.ratelimit.policy_file import assemble, parse
from services.ratelimit.policy_watch import PolicyWatch
from services.ratelimit.redis_store import RedisStore
from services.ratelimit.replicas import Recent
from services.ratelimit.servicer import RateLimitServicer
from services.ratelimit.settings import RatelimitSettings
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

STORE_CLIENT = "weaver-ratelimit"


async def build(
    settings: RatelimitSettings,
    stack: AsyncExitStack,
    audit_channel: grpc.aio.Channel | LocalChannel | None = None,
) -> Component:
    """Return the limiter, connected to its store or already trying to be.

    Args:
        settings: limits, store, what applies without it.
        stack: closes what is opened.
        audit_channel: reaches the audit service; None opens one to its address, and no address
            means that nothing is recorded.

    Raises:
        SettingsError: the store's CA cannot be read.
    """
    clock = SystemClock()
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    health = Health()

    trail = open_trail(
        "ratelimit",
        settings,
        stack,
        address=settings.audit_address,
        channel=audit_channel,
        clock=clock,
    )

    degradation = Degradation(
        settings.on_store_failure,
        health=health,
        gauge=metrics,
        trail=trail,
        strict=settings.production,
    )
    limiter: Limiter | None = None

    def replicas_counted(count: int) -> None:
        shares = max(count, settings.replicas)
        metrics.replicas_counted(shares)
        if limiter is not None:
            limiter.set_replicas(shares)

    def store_changed(up: bool, detail: str) -> None:  # noqa: FBT001 - a state
        degradation.store_changed(up, detail)
        if up and limiter is not None:
            limiter.pay()

    backups: dict[str, Standing] = {}
    registry.register(BackupMetrics(("redis",), lambda: backups or None))
    timeout_s = settings.store_timeout_ms / 1000
    store = RedisStore(
        location(settings, client=STORE_CLIENT, timeout_s=timeout_s),
        timeout_s=timeout_s,
        on_change=store_changed,
        name=secrets.token_hex(8),
        on_replicas=Recent(replicas_counted, clock).counted,
        on_unfit=degradation.store_examined,
        on_backups=lambda found: backups.update({"redis": Standing(0.0), **found}),
    )
    watch, policy = _policy(settings, health, metrics, trail)
    await store.start()
    stack.push_async_callback(store.close)
    if settings.production and degradation.unfit:
        msg = f"REDIS_HOST: the store cannot hold limits in production: {degradation.unfit}"
        raise SettingsError(msg)

    limiter = Limiter(
        store=store,
        local=MemoryStore(clock, max_accounts=settings.local_accounts),
        policy=policy,
        replicas=settings.replicas,
        on_store_failure=settings.on_store_failure,
        observer=metrics,
        clock=clock,
    )
    stack.push_async_callback(limiter.close)
    if watch is not None:
        watch.adopt = limiter.adopt
        watch.start()
        stack.push_async_callback(watch.close)

    def problem() -> str:
        return "" if watch is None else watch.problem

    servicer = RateLimitServicer(limiter, settings.limit_clients, problem)
    envoy = EnvoyServicer(limiter, settings.envoy_clients)
    health.set("", True)  # noqa: FBT003 - its form
    return Component(
        name="ratelimit",
        services=("weaver.ratelimit.v1.RateLimitService",),
        register=partial(_register, servicer, envoy),
        health=health,
        metrics=registry,
    )


def _policy(
    settings: RatelimitSettings, health: Health, metrics: Metrics, trail: AuditTrail
) -> tuple[PolicyWatch | None, Policy]:
    """Return the policy, and what follows its file where there is one.

    Raises:
        SettingsError: the file cannot be read, or is no policy.
    """
    rules, descriptors = defaults.rules(settings), defaults.descriptors(settings)
    if settings.policy_file is None:
        policy = assemble(rules, descriptors)
        metrics.policy_read(policy.version, good=True, changed=False)
        return None, policy
    watch = PolicyWatch(
        settings.policy_file,
        parse=partial(parse, defaults=rules, descriptors=descriptors),
        health=health,
        gauge=metrics,
        trail=trail,
    )
    try:
        return watch, watch.first()
    except OperatorFileError as error:
        msg = f"WEAVER_RATELIMIT_POLICY_FILE: {settings.policy_file}: {error}"
        raise SettingsError(msg) from None


def _register(servicer: RateLimitServicer, envoy: EnvoyServicer, server: Any) -> None:  # noqa: ANN401 - a grpc.aio server or a local channel
    ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server(servicer, server)
    envoy.register(server)
