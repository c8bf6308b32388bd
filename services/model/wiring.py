"""From settings to the finished component, in one straight line."""

from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from services.common.audit_trail import open_trail
from services.common.clock import Clock, SystemClock
from services.common.component import Component
from services.common.health import Health
from services.common.local import LocalChannel
from services.model.credential import Credential, bearer, named
from services.model.dialects.translation import Translating
from services.model.generation import Generator
from services.model.metrics import ProviderMetrics
from services.model.ports import Provider
from services.model.providers.anthropic import Anthropic
from services.model.providers.openai import OpenAI
from services.model.providers.stub import Stub, StubSettings
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.servicer import ModelServicer
from services.model.settings import ModelSettings
from services.model.upstream import Endpoint, Limits, pooled_transport
from services.model.usage import Prices
from weaver.model.v1 import model_service_pb2_grpc

SERVICE_NAME = "weaver.model.v1.ModelService"
_HEADERS = (
    ("accept", "application/json, text/event-stream"),
    ("accept-encoding", "identity"),
    ("content-type", "application/json"),
    ("user-agent", "weaver"),
)


async def build(
    settings: ModelSettings, stack: AsyncExitStack, audit_channel: LocalChannel | None = None
) -> Component:
    """Return the service, ready to be served; the stack closes its connections.

    Args:
        settings: the service's.
        stack: closes what is opened.
        audit_channel: reaches the audit service; None opens one to its address.
    """
    clock = SystemClock()
    open_trail(
        "model",
        settings,
        stack,
        address=settings.audit_address,
        channel=audit_channel,
        clock=clock,
    )
    health = Health()
    registry = CollectorRegistry()
    provider = Translating(_provider(settings, clock, stack), clock)
    prices = Prices(settings.input_price_micros, settings.output_price_micros)
    route = Route(
        settings.model_name,
        (Target(provider, settings.model_name, prices),),
        context_tokens=settings.context_tokens,
        max_output_tokens=settings.max_output_tokens,
    )
    generator = Generator(
        Routes([route]),
        RetryPolicy(settings.retries),
        clock,
        ProviderMetrics(registry, {(provider.name, settings.model_name)}),
        health,
    )
    servicer = ModelServicer(generator)
    health.set(f"provider:{provider.name}", serving=True, detail="not asked yet")
    health.set("", serving=True)
    return Component(
        "model",
        (SERVICE_NAME,),
        lambda server: model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server),
        health,
        registry,
    )


def _provider(settings: ModelSettings, clock: Clock, stack: AsyncExitStack) -> Provider:
    if settings.provider == "stub":
        return Stub(
            clock,
            StubSettings(
                settings.stub_latency_ms / 1000,
                settings.stub_chunk_delay_ms / 1000,
                settings.stub_tokens,
            ),
        )
    transport = pooled_transport(settings.max_connections)
    stack.push_async_callback(transport.aclose)
    limits = Limits(
        settings.connect_timeout_ms / 1000,
        settings.first_byte_timeout_ms / 1000,
        settings.idle_timeout_ms / 1000,
        settings.max_answer_bytes,
    )
    credential = Credential(settings.api_key.get_secret_value())
    anthropic = settings.provider == "anthropic"
    endpoint = Endpoint(
        transport,
        settings.base_url,
        _HEADERS,
        limits,
        credential=credential,
        key_header=named("x-api-key") if anthropic else bearer,
    )
    if anthropic:
        return Anthropic(endpoint, clock)
    return OpenAI(endpoint, clock, ask_usage=settings.stream_usage)
