"""From settings to a component: the store, the limiter, and who is told when the store is down."""

import os
import secrets
import socket
import ssl
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from services.common.channel import call, open_channel
from services.common.clock import SystemClock
from services.common.component import Component
from services.common.health import Health
from services.common.local import LocalChannel
from services.common.settings import SettingsError
from services.ratelimit.audit_trail import Append, AuditTrail
from services.ratelimit.connection import Address
from services.ratelimit.degradation import Degradation
from services.ratelimit.limiter import Limiter
from services.ratelimit.memory_store import MemoryStore
from services.ratelimit.metrics import Metrics
from services.ratelimit.policy import Policy
from services.ratelimit.redis_store import RedisStore
from services.ratelimit.servicer import RateLimitServicer
from services.ratelimit.settings import RatelimitSettings
from weaver.audit.v1 import audit_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

AUDIT_TIMEOUT_S = 5.0
_APPEND = "/weaver.audit.v1.AuditService/AppendRecords"


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

    if audit_channel is None and settings.audit_address:
        audit_channel = open_channel(
            settings.audit_address, settings, own="ratelimit", peer="audit", idempotent=(_APPEND,)
        )
        stack.push_async_callback(audit_channel.close)
    trail = AuditTrail(
        _append(audit_channel),
        instance=f"ratelimit-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}",
        clock=clock,
    )
    trail.start()
    stack.push_async_callback(trail.close)

    degradation = Degradation(settings.on_store_failure, health=health, gauge=metrics, trail=trail)
    store = RedisStore(
        address(settings),
        timeout_s=settings.store_timeout_ms / 1000,
        on_change=degradation.store_changed,
    )
    await store.start()
    stack.push_async_callback(store.close)

    policy = Policy.from_limits(
        rps=settings.rps, burst=settings.burst, tokens_per_minute=settings.tokens_per_minute
    )
    limiter = Limiter(
        store=store,
        local=MemoryStore(clock, max_accounts=settings.local_accounts),
        policy=policy,
        replicas=settings.replicas,
        on_store_failure=settings.on_store_failure,
        observer=metrics,
        clock=clock,
    )
    servicer = RateLimitServicer(limiter)
    health.set("", True)  # noqa: FBT003 - its form
    return Component(
        name="ratelimit",
        services=("weaver.ratelimit.v1.RateLimitService",),
        register=partial(
            ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server, servicer
        ),
        health=health,
        metrics=registry,
    )


def address(settings: RatelimitSettings) -> Address:
    """Return where the store is.

    Raises:
        SettingsError: the store's CA cannot be read.
    """
    tls = None
    if settings.redis_tls and settings.redis_unix_socket is None:
        try:
            tls = ssl.create_default_context(cafile=settings.redis_tls_ca)
        except (OSError, ssl.SSLError) as error:
            msg = f"REDIS_TLS_CA: cannot use {settings.redis_tls_ca}: {error}"
            raise SettingsError(msg) from None
    return Address(
        host=settings.redis_host,
        port=settings.redis_port,
        unix_socket=settings.redis_unix_socket,
        database=settings.redis_db,
        password=settings.redis_password.get_secret_value(),
        tls=tls,
    )


def _append(channel: Any) -> Append | None:  # noqa: ANN401 - a grpc.aio or a local channel
    if channel is None:
        return None
    stub = audit_service_pb2_grpc.AuditServiceStub(channel)
    return partial(call, stub.AppendRecords, timeout_s=AUDIT_TIMEOUT_S)
