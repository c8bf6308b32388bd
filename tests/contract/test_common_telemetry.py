"""Spans of calls: to a collector over gRPC and HTTP, and to none at all."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from services.common import logs, otlp, telemetry
from services.common.channel import call, open_channel, stream
from services.common.errors import InvalidArgument, Unavailable
from services.common.server import Listener, start_server
from services.common.settings import CommonSettings
from tests.fakes.limits import ScriptedLimits, ScriptedModel, component
from weaver.model.v1 import model_service_pb2, model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

Span = trace_pb2.Span
TRACE = "a" * 32
CALLER = (("traceparent", f"00-{TRACE}-{'b' * 16}-01"),)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.resources: list[dict[str, str]] = []
        self.spans: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        self.take(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def take(self, request: Any) -> None:
        for batch in request.resource_spans:
            attributes = batch.resource.attributes
            self.resources.append({item.key: item.value.string_value for item in attributes})
            for scope in batch.scope_spans:
                self.spans.extend(scope.spans)


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Collector, str]]:
    collector = Collector()
    server = grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    monkeypatch.setattr(otlp, "OTLP_GRPC_PORT", port)
    yield collector, f"http://127.0.0.1:{port}"
    await server.stop(0)


class Suite:
    """A served component that traces, and stubs of it."""

    def __init__(self, limits: ScriptedLimits, model: ScriptedModel, channel: Any) -> None:
        self.limits, self.model = limits, model
        self.stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self.model_stub = model_service_pb2_grpc.ModelServiceStub(channel)


async def suite(endpoint: str, tmp_path: Path, stack: AsyncExitStack) -> Suite:
    settings = CommonSettings(
        state_dir=tmp_path, telemetry_enabled=True, telemetry_endpoint=endpoint
    )
    limits, model = ScriptedLimits(), ScriptedModel()
    handle = await start_server(
        component(limits, model),
        settings,
        stack,
        [Listener("127.0.0.1:0")],
        allowed_clients=("gateway",),
    )
    channel = open_channel(handle.addresses[0], settings, own="gateway", peer="ratelimit")
    stack.push_async_callback(channel.close)
    return Suite(limits, model, channel)


async def test_a_calls_spans_continue_its_trace(
    collector: tuple[Collector, str], tmp_path: Path
) -> None:
    kept, endpoint = collector
    async with AsyncExitStack() as stack:
        served = await suite(endpoint, tmp_path, stack)
        traces: list[str] = []

        async def inner(request: Any, context: Any) -> Any:
            traces.append(logs.trace_id.get())
            raise InvalidArgument("sesame")

        async def outer(request: Any, context: Any) -> Any:
            served.limits.answer = inner
            with pytest.raises(InvalidArgument):
                await call(served.stub.Peek, pb.PeekRequest(), timeout_s=5)
            chunks = stream(
                served.model_stub.GenerateStream, model_service_pb2.GenerateStreamRequest()
            )
            async with aclosing(chunks):
                async for _ in chunks:
                    pass
            return pb.PeekResponse()

        served.limits.answer = outer
        await call(served.stub.Peek, pb.PeekRequest(), timeout_s=5, metadata=CALLER)
        assert traces == [TRACE]
    assert {span.trace_id.hex() for span in kept.spans} == {TRACE}
    by_id = {span.span_id: span for span in kept.spans}
    servers = [span for span in kept.spans if span.kind == Span.SPAN_KIND_SERVER]
    clients = [span for span in kept.spans if span.kind == Span.SPAN_KIND_CLIENT]
    assert len(servers) == 3
    assert len(clients) == 2
    (root,) = [span for span in servers if span.parent_span_id.hex() == "b" * 16]
    assert {span.parent_span_id for span in clients} == {root.span_id}
    for span in servers:
        if span is not root:
            assert by_id[span.parent_span_id].kind == Span.SPAN_KIND_CLIENT
    assert root.name == "weaver.ratelimit.v1.RateLimitService/Peek"
    assert "sesame" not in str(kept.spans)
    assert kept.resources[0]["service.name"] == "weaver-ratelimit"
    assert kept.resources[0]["service.namespace"] == "weaver"


async def test_a_fault_marks_its_spans(collector: tuple[Collector, str], tmp_path: Path) -> None:
    kept, endpoint = collector
    async with AsyncExitStack() as stack:
        served = await suite(endpoint, tmp_path, stack)

        async def inner(request: Any, context: Any) -> Any:
            raise Unavailable("gone")

        async def outer(request: Any, context: Any) -> Any:
            served.limits.answer = inner
            return await call(served.stub.Peek, pb.PeekRequest(), timeout_s=5)

        served.limits.answer = outer
        with pytest.raises(Unavailable):
            await call(served.stub.Peek, pb.PeekRequest(), timeout_s=5, metadata=CALLER)
    assert len(kept.spans) == 3
    for span in kept.spans:
        assert span.status.code == trace_pb2.Status.STATUS_CODE_ERROR
        assert not span.status.message
        assert not span.events


async def test_cancelled_calls_have_spans_that_end(
    collector: tuple[Collector, str], tmp_path: Path
) -> None:
    kept, endpoint = collector
    async with AsyncExitStack() as stack:
        served = await suite(endpoint, tmp_path, stack)
        inside = asyncio.Event()

        async def inner(request: Any, context: Any) -> Any:
            inside.set()
            await asyncio.sleep(60)

        async def outer(request: Any, context: Any) -> Any:
            served.limits.answer = inner
            return await call(served.stub.Peek, pb.PeekRequest(), timeout_s=30)

        served.limits.answer = outer
        task = asyncio.create_task(
            call(served.stub.Peek, pb.PeekRequest(), timeout_s=30, metadata=CALLER)
        )
        await asyncio.wait_for(inside.wait(), 5)
        task.cancel()
        await asyncio.wait_for(served.limits.cancelled.wait(), 5)
        await asyncio.wait([task])
        await asyncio.sleep(0.2)
    assert len(kept.spans) == 3


async def test_a_collector_over_http_gets_the_same(tmp_path: Path) -> None:
    kept = Collector()
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.take(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        async with AsyncExitStack() as stack:
            served = await suite(f"http://127.0.0.1:{server.server_port}", tmp_path, stack)
            await call(served.stub.Peek, pb.PeekRequest(), timeout_s=5, metadata=CALLER)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert paths == ["/v1/traces"]
    assert len(kept.spans) == 1


@pytest.mark.parametrize("port", [4317, 9])
async def test_a_dead_collector_harms_nothing(tmp_path: Path, port: int) -> None:
    start = time.monotonic()
    async with AsyncExitStack() as stack:
        served = await suite(f"http://127.0.0.1:{port}", tmp_path, stack)
        for _ in range(50):
            await call(served.stub.Peek, pb.PeekRequest(), timeout_s=1, metadata=CALLER)
        assert time.monotonic() - start < 5
        closing = time.monotonic()
    assert time.monotonic() - closing < otlp.EXPORT_TIMEOUT_S + 1


async def test_with_telemetry_off_there_is_no_tracer(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        settings = CommonSettings(state_dir=tmp_path)
        assert telemetry.start_tracing(settings, "audit", stack) is None
    assert telemetry.start_client_span("/s/M") is None
    assert telemetry.outgoing_headers() == ()
