"""From settings to a gateway that is ready to serve."""

import asyncio
import contextlib
import os
import random
import re
import socket
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from prometheus_client import CollectorRegistry

from services.common.batching import Company
from services.common.channel import open_channel
from services.common.clock import SystemClock
from services.common.component import Component
from services.common.errors import Unavailable
from services.common.fingerprint import start_attributes
from services.common.health import Health
from services.common.server import Kind, Listener
from services.common.status import http_status
from services.gateway import access, audit_client, limit_client, model_client, openai
from services.gateway.admin_servicer import AdminServicer
from services.gateway.admission import Capacity, Door
from services.gateway.admission_metrics import AdmissionMetrics, SheddingLog
from services.gateway.apikeys.metrics import KeyReports
from services.gateway.apikeys.wiring import ManagedKeys, open_keys
from services.gateway.audit_admin_servicer import AuditAdminServicer
from services.gateway.audit_client import AuditClient
from services.gateway.audit_servicer import AuditReaderServicer
from services.gateway.authentication import APIKeys, Authenticator
from services.gateway.authorization import Authorizer
from services.gateway.authorization_wiring import open_authorizer
from services.gateway.capture import KINDS, Capture
from services.gateway.catalogue import Catalogue
from services.gateway.configuration_reports import ConfigurationReports
from services.gateway.content_wiring import open_content
from services.gateway.dependencies import Dependencies
from services.gateway.events import CaptureRule, Event, EventType
from services.gateway.health import HealthReport
from services.gateway.health_client import HealthClient, OwnHealth
from services.gateway.http_metrics import HTTPMetrics
from services.gateway.limit_client import LimitClient
from services.gateway.limit_reader import LimitReader
from services.gateway.model_client import ModelClient
from services.gateway.pipeline import Pipeline, PipelineSettings
from services.gateway.recorder import Recorder
from services.gateway.refusals import Refusals
from services.gateway.reporter import Reporter
from services.gateway.roles import describe
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import GatewaySettings
from services.gateway.token_wiring import open_tokens
from services.gateway.tokens import Tokens
from services.gateway.tracing import TracedLimitClient, TracedRecorder
from weaver.gateway.v1 import (
    admin_service_pb2_grpc,
    audit_admin_service_pb2_grpc,
    audit_reader_service_pb2_grpc,
    gateway_service_pb2_grpc,
)

NAME = "gateway"
SERVICES = (
    "weaver.gateway.v1.GatewayService",
    "weaver.gateway.v1.AuditReaderService",
    "weaver.gateway.v1.AuditAdminService",
    "weaver.gateway.v1.AdminService",
)
FLUSH_INTERVAL_S = 1.0
# What a stream gets of the time to drain, to record its outcome and to say why it ends.
LAST_WORDS_S = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True)
class Neighbours:
    """Channels to the neighbours: local ones, or None to open gRPC's to the settings' addresses."""

    ratelimit: Any = None
    model: Any = None
    audit: Any = None


async def build(
    settings: GatewaySettings, stack: AsyncExitStack, neighbours: Neighbours | None = None
) -> Component:
    """Build the gateway.

    Args:
        settings: the gateway's.
        stack: closes what is opened here.
        neighbours: channels to them; None opens all.
    """
    access.check(method.full_name for name in SERVICES for method in _methods(name))
    clock = SystemClock()
    registry = CollectorRegistry()
    health = Health()
    channels = _open(settings, stack, neighbours or Neighbours())
    records_needed = settings.audit_on_failure == "deny"
    reporter = Reporter(
        registry,
        health,
        records_needed=records_needed,
        patience_s=settings.audit_timeout_ms / 1000,
    )
    company = Company()

    audit = AuditClient(
        channels.audit,
        append_timeout_s=settings.audit_timeout_ms / 1000,
        read_timeout_s=settings.request_timeout_ms / 1000,
    )
    recorder = (TracedRecorder if settings.telemetry_enabled else Recorder)(
        audit,
        reporter,
        instance=settings.instance or _instance(),
        clock=clock,
        patience_s=settings.audit_timeout_ms / 1000,
        company=company,
    )
    refusals = Refusals(clock)
    limiter = (TracedLimitClient if settings.telemetry_enabled else LimitClient)(
        channels.ratelimit,
        timeout_s=settings.ratelimit_timeout_ms / 1000,
        time_to_live_s=settings.reservation_ms / 1000,
        company=company,
    )
    model = ModelClient(channels.model)
    dependencies = Dependencies(
        {
            "audit": HealthClient(channels.audit),
            "model": HealthClient(channels.model),
            "ratelimit": HealthClient(channels.ratelimit),
            NAME: OwnHealth(health),
        },
        reporter,
        clock,
        optional=frozenset({NAME} if records_needed else {NAME, "audit"}),
    )
    reporter.recorder, reporter.dependencies = recorder, dependencies
    changes = ConfigurationReports(registry, health, reporter.configuration_changed)
    authorizer = open_authorizer(settings, stack, changes.roles_read)
    tokens = None
    if "jwt" in settings.auth_mode:
        tokens = open_tokens(settings, stack, clock, changes)
    door = _door(settings, clock, registry)
    keys = None
    if "api_key" in settings.auth_mode and settings.manages_api_keys:
        reports = KeyReports(registry, health, reporter.configuration_changed)
        keys = await open_keys(settings, stack, clock, reports)
    pipeline = Pipeline(
        authenticator=_authenticator(settings, tokens, keys),
        authorizer=authorizer,
        door=door,
        catalogue=Catalogue(model, clock),
        limiter=limiter,
        model=model,
        recorder=recorder,
        refusals=refusals,
        clock=clock,
        settings=PipelineSettings(
            content=open_content(settings, stack, changes.content_policy_read),
            max_output_tokens=settings.request_max_tokens,
            request_timeout_s=settings.request_timeout_ms / 1000,
            stream_idle_timeout_s=settings.stream_idle_timeout_ms / 1000,
            capture=_capture_rule(settings),
        ),
        http_status=http_status,
        error_event=openai.error_event,
        company=company,
        unrecorded=None if records_needed else reporter,
    )
    capture = audit.capture = Capture(audit.store, reporter)
    report = HealthReport(
        dependencies,
        recorder,
        partial(_policies, settings, audit),
        health,
        door,
        public_details=settings.public_health_details,
        records_needed=records_needed,
    )
    limits = LimitReader(channels.ratelimit, timeout_s=settings.ratelimit_timeout_ms / 1000)
    gateway = GatewayServicer(pipeline, report, limits, settings.model_name)
    reader = AuditReaderServicer(pipeline, audit, settings.auditor_reads)
    eraser = AuditAdminServicer(pipeline, audit, settings.default_tenant)
    admin = AdminServicer(
        pipeline,
        limits,
        lambda: {**_policies(settings, audit), "authorization": _roles(authorizer, health)},
        default_tenant=settings.default_tenant,
        api_key_roles=settings.api_key_roles,
        keys=keys,
        known_roles=lambda: authorizer.policy.roles,
    )

    def register(server: Any) -> None:  # noqa: ANN401 - gRPC's or local
        gateway_service_pb2_grpc.add_GatewayServiceServicer_to_server(gateway, server)
        audit_reader_service_pb2_grpc.add_AuditReaderServiceServicer_to_server(reader, server)
        audit_admin_service_pb2_grpc.add_AuditAdminServiceServicer_to_server(eraser, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, server)

    stack.push_async_callback(capture.close, settings.drain_seconds)
    stack.push_async_callback(_flush, recorder, refusals, limiter, clock, settings.drain_seconds)
    leaving_s = settings.drain_notice_seconds + settings.drain_seconds
    stopping = asyncio.create_task(_stop_streams(pipeline, health, leaving_s))
    stack.push_async_callback(_end, stopping)
    started = Event(
        EventType.SERVICE_STARTED, clock.time(), attributes=start_attributes(NAME, settings)
    )
    await _start(stack, recorder, refusals, dependencies, started)
    reporter.begin()
    component = Component(NAME, SERVICES, register, health, registry)
    HTTPMetrics(registry, component.calls, SERVICES)
    return component


def _methods(service: str) -> Iterable[MethodDescriptor]:
    """Return the methods of a service, as its contract declares them."""
    return descriptor_pool.Default().FindServiceByName(service).methods


def listeners(settings: GatewaySettings) -> list[Listener]:
    """Return where the gateway listens: for stub users, and for Envoy, each where it is set."""
    public = Listener(settings.listen, Kind.PUBLIC, "WEAVER_GATEWAY_LISTEN")
    edge = Listener(settings.edge_listen, Kind.EDGE, "WEAVER_GATEWAY_EDGE_LISTEN")
    return [one for one in (public, edge) if one.address] or [public]


def _open(settings: GatewaySettings, stack: AsyncExitStack, given: Neighbours) -> Neighbours:
    def channel(name: str, address: str, idempotent: tuple[str, ...]) -> Any:  # noqa: ANN401
        if (one := getattr(given, name)) is not None:
            return one
        opened = open_channel(address, settings, own=NAME, peer=name, idempotent=idempotent)
        stack.push_async_callback(opened.close)
        return opened

    return Neighbours(
        channel("ratelimit", settings.ratelimit_address, limit_client.IDEMPOTENT),
        channel("model", settings.model_address, model_client.IDEMPOTENT),
        channel("audit", settings.audit_address, audit_client.IDEMPOTENT),
    )


def _authenticator(
    settings: GatewaySettings, tokens: Tokens | None, managed: ManagedKeys | None
) -> Authenticator:
    keys = None
    if "api_key" in settings.auth_mode:
        keys = APIKeys(
            settings.api_keys, tenant=settings.default_tenant, roles=settings.api_key_roles
        )
    return Authenticator(keys, tokens, None if managed is None else managed.cache)


def _door(settings: GatewaySettings, clock: SystemClock, registry: CollectorRegistry) -> Door:
    capacity = Capacity(
        calls=settings.max_in_flight,
        calls_per_caller=settings.max_in_flight_per_caller,
        body_bytes=settings.max_in_flight_bytes,
        delay_s=settings.shed_delay_ms / 1000,
    )
    door = Door(capacity, clock, random.random, SheddingLog())
    AdmissionMetrics(door, capacity, registry)
    return door


def _capture_rule(settings: GatewaySettings) -> CaptureRule | None:
    """Return what is captured of prompts and answers; None for nothing."""
    if settings.production and settings.audit_capture == "full":
        _log.warning(
            "prompts and answers are kept as they came, personal data and all",
            setting="WEAVER_AUDIT_CAPTURE=full",
        )
    kinds = KINDS[settings.audit_capture]
    return CaptureRule(kinds, settings.audit_capture_max_bytes) if kinds else None


def _policies(settings: GatewaySettings, audit: AuditClient) -> dict[str, str]:
    """Return what `/health` says of what this deployment has decided."""
    modes = {None: "unknown", False: "plain", True: "pseudonym"}
    return {
        "audit_on_failure": settings.audit_on_failure,
        "audit_capture": settings.audit_capture,
        "audit_principal": modes[audit.pseudonyms],
    }


def _roles(authorizer: Authorizer, health: Health) -> dict[str, object]:
    """Return what administrators read of roles, and why their file was refused."""
    _, problem = health.snapshot().get("roles", (True, ""))
    return {**describe(authorizer.policy), "file_refused": problem or None}


async def _start(
    stack: AsyncExitStack,
    recorder: Recorder,
    refusals: Refusals,
    dependencies: Dependencies,
    started: Event,
) -> None:
    """Start what runs in the background, and record that the service started."""

    async def flush_refusals() -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            _submit_refusals(recorder, refusals, everything=False)

    await dependencies.look()
    with contextlib.suppress(Unavailable):
        recorder.submit(started)
    for background in (flush_refusals(), dependencies.watch()):
        task = asyncio.create_task(background)
        stack.push_async_callback(_end, task)


async def _stop_streams(pipeline: Pipeline, health: Health, drain_s: float) -> None:
    """End the streams that are still open when the time to drain is nearly over."""
    while True:
        change = health.next_change()
        if health.draining:
            break
        await change.wait()
    await asyncio.sleep(max(0.0, drain_s - LAST_WORDS_S))
    pipeline.stop_streams()


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _flush(
    recorder: Recorder,
    refusals: Refusals,
    limiter: LimitClient,
    clock: SystemClock,
    timeout_s: float,
) -> None:
    """Send what is owed to the neighbours before the process ends."""
    _submit_refusals(recorder, refusals, everything=True)
    stopped = Event(EventType.SERVICE_STOPPED, clock.time(), attributes={"service": NAME})
    recorder.submit(stopped, must=True)

    async def settle() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await limiter.close()

    # Beside each other: slots are given back also while the log is away.
    left, _ = await asyncio.gather(recorder.close(timeout_s), settle())
    if left:
        _log.error("records could not be handed over", records=left)


def _submit_refusals(recorder: Recorder, refusals: Refusals, *, everything: bool) -> None:
    for event in refusals.take(everything=everything):
        try:
            recorder.submit(event, must=everything)
        except Unavailable:
            refusals.put_back(event)
            return


def _instance() -> str:
    """Return a name for this process: the neighbours know us as `gateway`."""
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64]
    return f"{NAME}-{host}-{os.getpid()}"
