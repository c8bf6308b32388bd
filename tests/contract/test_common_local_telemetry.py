"""Neighbours in the same process: counted, timed and traced as their own service."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from services.common import telemetry
from services.common.channel import call, stream
from services.common.component import Component
from services.common.errors import Unavailable
from services.common.health import Health
from services.common.interceptors.call_metrics import CallMetrics
from services.common.local import LocalChannel
from services.common.server import Listener, start_server
from services.common.settings import CommonSettings
from services.common.telemetry import Scope, Tracing
from tests.fakes.limits import ScriptedLimits, ScriptedModel, component
from weaver.model.v1 import model_service_pb2, model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PEEK = "/weaver.ratelimit.v1.RateLimitService/Peek"
STREAM = "/weaver.model.v1.ModelService/GenerateStream"


class Traced:
    """A caller and its neighbour, each with a tracer of its own, in one process."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.registry = CollectorRegistry()
        self.limits, self.model = ScriptedLimits(), ScriptedModel()
        self.caller, callee = self._tracing("caller"), self._tracing("callee")
        channel: Any = LocalChannel("gateway", CallMetrics(self.registry), callee)
        component(self.limits, self.model).register(channel)
        self.stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self.model_stub = model_service_pb2_grpc.ModelServiceStub(channel)

    def _tracing(self, name: str) -> Tracing:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.spans))
        return Tracing(provider.get_tracer(name))

    def begin(self) -> Scope:
        scope = self.caller.begin("/s/Root", (), trusted=False)
        assert scope is not None
        telemetry.scope.set(scope)
        return scope

    def count(self, path: str, code: str) -> float | None:
        return self.registry.get_sample_value(
            "grpc_server_handled_total", {"grpc_method": path, "grpc_code": code}
        )


async def test_a_neighbours_span_stands_below_the_callers() -> None:
    traced = Traced()
    root = traced.begin()
    await call(traced.stub.Peek, pb.PeekRequest(), timeout_s=1)
    chunks = stream(traced.model_stub.GenerateStream, model_service_pb2.GenerateStreamRequest())
    async with aclosing(chunks):
        async for _ in chunks:
            assert telemetry.scope.get() is root  # The neighbour's span is never the caller's.
    assert telemetry.scope.get() is root
    spans = {(s.name, s.kind.name): s for s in traced.spans.get_finished_spans()}
    for path in (PEEK, STREAM):
        client, server = spans[path[1:], "CLIENT"], spans[path[1:], "SERVER"]
        assert client.parent is not None
        assert server.parent is not None
        assert client.parent.span_id == root.span.get_span_context().span_id
        assert server.parent.span_id == client.context.span_id
        made_by = [one.instrumentation_scope for one in (client, server)]
        assert [one.name for one in made_by if one is not None] == ["caller", "callee"]


async def test_what_is_not_sampled_makes_no_span() -> None:
    traced = Traced()
    await call(traced.stub.Peek, pb.PeekRequest(), timeout_s=1)
    assert traced.spans.get_finished_spans() == ()
    assert traced.count(PEEK, "OK") == 1


async def test_calls_are_counted_by_how_they_ended() -> None:
    traced = Traced()

    async def fail(request: Any, context: Any) -> Any:
        raise Unavailable("gone")

    async def hang(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    async def burst(request: Any, context: Any) -> Any:
        raise ZeroDivisionError

    for answer, code, seconds in (
        (fail, "UNAVAILABLE", 1.0),
        (hang, "DEADLINE_EXCEEDED", 0.01),
        (burst, "INTERNAL", 1.0),
    ):
        traced.limits.answer = answer
        with pytest.raises(Exception, match=r".*"):
            await call(traced.stub.Peek, pb.PeekRequest(), timeout_s=seconds)
        assert traced.count(PEEK, code) == 1
    traced.limits.answer = hang
    task = asyncio.create_task(call(traced.stub.Peek, pb.PeekRequest(), timeout_s=5))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert traced.count(PEEK, "CANCELLED") == 1


async def test_methods_that_nobody_serves_are_counted_under_one_name(tmp_path: Any) -> None:
    """A caller's own names never become labels."""
    registry = CollectorRegistry()
    served = Component("audit", (), lambda server: None, Health(), registry)
    async with AsyncExitStack() as stack:
        settings = CommonSettings(state_dir=tmp_path, mtls_enabled=False)
        handle = await start_server(served, settings, stack, [Listener("127.0.0.1:0")])
        channel = grpc.aio.insecure_channel(handle.addresses[0])
        stack.push_async_callback(channel.close)
        for number in range(20):
            method: Any = channel.unary_unary(f"/made.up.Service/Method{number}")
            with pytest.raises(grpc.aio.AioRpcError):
                await method(b"", timeout=2)
    labels = {"grpc_method": "unknown", "grpc_code": "UNIMPLEMENTED"}
    assert registry.get_sample_value("grpc_server_handled_total", labels) == 20
    methods = {
        sample.labels["grpc_method"]
        for family in registry.collect()
        for sample in family.samples
        if "grpc_method" in sample.labels
    }
    assert methods == {"unknown"}
