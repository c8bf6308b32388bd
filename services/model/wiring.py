"""From settings to the finished component, in one straight line."""

import os
from contextlib import AsyncExitStack
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from services.common.audit_trail import AuditTrail, open_trail
from services.common.clock import SystemClock
from services.common.component import Component
from services.common.health import Health
from services.common.local import LocalChannel
from services.common.settings import SettingsError
from services.model import environment
from services.model.assembly import Assembly, OnState
from services.model.breaker import BreakerPolicy, State
from services.model.cache.wiring import cached
from services.model.credential import CredentialError
from services.model.declaration import Declaration
from services.model.generation import Generator
from services.model.metrics import ProviderMetrics, TargetMetrics
from services.model.providers.stub import StubSettings
from services.model.retry import RetryPolicy
from services.model.route import Routes
from services.model.route_file import RouteFileError, parse
from services.model.route_watch import RouteWatch
from services.model.servicer import Answers, ModelServicer
from services.model.settings import ModelSettings
from services.model.tracing import TracedTrial
from services.model.trial import Trial
from services.model.upstream import pooled_transport
from weaver.model.v1 import model_service_pb2_grpc

SERVICE_NAME = "weaver.model.v1.ModelService"

_log = structlog.get_logger()


async def build(
    settings: ModelSettings, stack: AsyncExitStack, audit_channel: LocalChannel | None = None
) -> Component:
    """Return the service, ready to be served; the stack closes its connections.

    Args:
        settings: the service's.
        stack: closes what is opened.
        audit_channel: reaches the audit service; None opens one to its address.

    Raises:
        SettingsError: the route file or a key file is bad.
    """
    clock = SystemClock()
    trail = open_trail(
        "model",
        settings,
        stack,
        address=settings.audit_address,
        channel=audit_channel,
        clock=clock,
    )
    health = Health()
    registry = CollectorRegistry()
    metrics = ProviderMetrics(registry)
    transport = pooled_transport()
    stack.push_async_callback(transport.aclose)
    assembly = Assembly(
        transport,
        clock,
        StubSettings(
            settings.stub_latency_ms / 1000,
            settings.stub_chunk_delay_ms / 1000,
            settings.stub_tokens,
        ),
        BreakerPolicy(settings.breaker_failures, open_s=settings.breaker_open_ms / 1000),
        _teller(trail),
    )
    watch = RouteWatch(
        settings.routes_file,
        partial(_parse, settings, environment.declared(settings)),
        assembly,
        health=health,
        gauge=metrics,
        trail=trail,
    )
    generator = Generator(
        _first(watch, settings),
        RetryPolicy(settings.retries),
        clock,
        metrics,
        health,
        TracedTrial if settings.telemetry_enabled else Trial,
    )
    adopt = partial(_adopt, generator, metrics, health)
    adopt(generator.routes)
    watch.adopt = adopt
    watch.start()
    stack.push_async_callback(watch.close)
    TargetMetrics(
        registry, lambda: (target for route in generator.routes for target in route.targets)
    )
    answers: Answers = generator
    if settings.cache_enabled:
        answers = await cached(
            settings, generator, stack, clock=clock, meter=metrics, health=health, trail=trail
        )
    servicer = ModelServicer(answers)
    health.set("", serving=True)
    return Component(
        "model",
        (SERVICE_NAME,),
        lambda server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server),
        health,
        registry,
        reload=watch.ask,
    )


def _parse(settings: ModelSettings, own: Declaration, content: bytes) -> Declaration:
    """Return what the environment and a route file declare together.

    Raises:
        RouteFileError: the file declares no routes, or what production refuses.
    """
    if settings.routes_file is None:
        return own
    gate = environment.gate(settings)
    declaration = parse(content, own, environment.limits(settings), gate, os.environ)
    if settings.production and any(one.kind == "stub" for one in declaration.providers):
        msg = "production refuses providers of kind: stub"
        raise RouteFileError(msg)
    return declaration


def _first(watch: RouteWatch, settings: ModelSettings) -> Routes:
    try:
        return watch.first()
    except RouteFileError as error:
        msg = f"WEAVER_MODEL_ROUTES_FILE: {settings.routes_file}: {error}"
        raise SettingsError(msg) from None
    except CredentialError as error:
        msg = f"The key file of a provider: {error}"
        raise SettingsError(msg) from None


def _adopt(generator: Generator, metrics: ProviderMetrics, health: Health, routes: Routes) -> None:
    """Make routes decide, and have metrics and health know their providers."""
    targets = [target for route in routes for target in route.targets]
    metrics.know({(target.provider.name, target.model) for target in targets})
    known = health.snapshot()
    providers = {f"provider:{target.provider.name}" for target in targets}
    for name in providers - known.keys():
        health.set(name, serving=True, detail="not asked yet")
    for name in known:
        if name.startswith("provider:") and name not in providers:
            health.set(name, serving=True, detail="no longer declared")
    generator.routes = routes


def _teller(trail: AuditTrail) -> OnState:
    """Return what tells the log and the audit log of targets that rest."""

    def tell(provider: str, model: str, state: State, reason: str) -> None:
        if state is State.HALF_OPEN:
            return
        rests = state is State.OPEN
        level = _log.warning if rests else _log.info
        level(
            "target rests" if rests else "target serves again",
            provider=provider,
            model=model,
            reason=reason,
        )
        about = {"dependency": f"provider:{provider}", "model": model[:200]}
        trail.degraded(entered=rests, attributes=about | ({"reason": reason} if reason else {}))

    return tell
