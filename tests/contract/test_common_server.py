"""A component behind real listeners: TLS, peers, limits of size and time, health, the end."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from weaver.common.v1 import identity_pb2
from weaver.model.v1 import model_service_pb2, model_service_pb2_grpc
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

from services.common.channel import call, open_channel, stream
from services.common.component import Component
from services.common.errors import (
    DeadlineExceeded,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from services.common.server import Kind, Listener, ServerHandle, start_server
from services.common.settings import CommonSettings, SettingsError
from tests.fakes.limits import RATELIMIT, ScriptedLimits, ScriptedModel, component

PEEK = pb.PeekRequest()
STREAM = model_service_pb2.GenerateStreamRequest()
LOCAL = "127.0.0.1:0"


class Suite:
    """A component being served, and clients of it."""

    def __init__(self, settings: CommonSettings, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.stack = stack
        self.limits = ScriptedLimits()
        self.model = ScriptedModel()
        self.component: Component = component(self.limits, self.model)

    async def serve(self, *listeners: Listener, **options: Any) -> ServerHandle:
        options.setdefault("allowed_clients", ("gateway",))
        return await start_server(
            self.component, self.settings, self.stack, listeners or (Listener(LOCAL),), **options
        )

    def channel(self, address: str, own: str = "gateway", peer: str = "ratelimit") -> Any:
        channel = open_channel(address, self.settings, own=own, peer=peer)
        self.stack.push_async_callback(channel.close)
        return channel

    def stub(self, address: str, own: str = "gateway", peer: str = "ratelimit") -> Any:
        return ratelimit_service_pb2_grpc.RateLimitServiceStub(self.channel(address, own, peer))

    def stranger(self, address: str) -> grpc.aio.Channel:
        """Return a channel of someone without a certificate."""
        authority = (self.settings.tls_path / "ca.pem").read_bytes()
        credentials = grpc.ssl_channel_credentials(authority)
        return self.raw(grpc.aio.secure_channel(address, credentials))

    def raw(self, channel: grpc.aio.Channel) -> grpc.aio.Channel:
        self.stack.push_async_callback(channel.close)
        return channel


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        yield Suite(CommonSettings(state_dir=tmp_path), stack)


async def test_a_neighbour_on_the_list_is_served_by_its_name(suite):
    handle = await suite.serve()
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == ["gateway"]
    assert handle.ports[0] > 0


async def test_a_neighbour_that_is_not_on_the_list_is_refused(suite):
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0], own="model").Peek
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(PEEK)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(Unavailable) as translated:
        await call(method, PEEK, timeout_s=5)
    assert translated.value.reason == "PEER_NOT_ALLOWED"
    assert suite.limits.peers == []


async def test_a_name_in_metadata_is_not_believed(suite):
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0], own="model").Peek
    with pytest.raises(Unavailable):
        await call(method, PEEK, timeout_s=5, metadata=(("x-weaver-peer", "gateway"),))


async def test_health_answers_any_neighbour(suite):
    handle = await suite.serve()
    stub = health_pb2_grpc.HealthStub(suite.channel(handle.addresses[0], own="audit"))
    response = await call(stub.Check, health_pb2.HealthCheckRequest(service=RATELIMIT), timeout_s=5)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    listed = await call(stub.List, health_pb2.HealthListRequest(), timeout_s=5)
    assert set(listed.statuses) == {"", RATELIMIT, "weaver.model.v1.ModelService"}


async def test_a_stranger_without_a_certificate_does_not_get_in(suite):
    handle = await suite.serve()
    stub = health_pb2_grpc.HealthStub(suite.stranger(handle.addresses[0]))
    with pytest.raises(Unavailable):
        await call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=5)


async def test_a_neighbour_that_is_not_who_it_should_be_is_not_called(suite):
    handle = await suite.serve()
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0], peer="audit").Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == []


async def test_the_public_listener_serves_anyone_without_a_name(suite):
    handle = await suite.serve(Listener(LOCAL, Kind.PUBLIC))
    stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(suite.stranger(handle.addresses[0]))
    await call(stub.Peek, PEEK, timeout_s=5, metadata=(("x-weaver-peer", "gateway"),))
    assert suite.limits.peers == [""]


async def test_the_edge_socket_is_envoys_and_ours_alone(suite, tmp_path):
    path = tmp_path / "run" / "edge.sock"
    handle = await suite.serve(Listener(f"unix:{path}", Kind.EDGE))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert handle.ports == (0,)
    channel = suite.raw(grpc.aio.insecure_channel(f"unix:{path}"))
    await ratelimit_service_pb2_grpc.RateLimitServiceStub(channel).Peek(PEEK)
    assert suite.limits.peers == ["envoy"]


async def test_the_edge_port_lets_envoy_in_and_nobody_else(suite):
    handle = await suite.serve(Listener(LOCAL, Kind.EDGE))
    await call(suite.stub(handle.addresses[0], own="envoy").Peek, PEEK, timeout_s=5)
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0], own="gateway").Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == ["envoy"]


async def test_two_listeners_serve_the_same_component(suite, tmp_path):
    handle = await suite.serve(
        Listener(LOCAL, Kind.PUBLIC), Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE)
    )
    public = ratelimit_service_pb2_grpc.RateLimitServiceStub(suite.stranger(handle.addresses[0]))
    edge = ratelimit_service_pb2_grpc.RateLimitServiceStub(
        suite.raw(grpc.aio.insecure_channel(handle.addresses[1]))
    )
    await public.Peek(PEEK)
    await edge.Peek(PEEK)
    assert suite.limits.peers == ["", "envoy"]


@pytest.mark.parametrize("kind", [Kind.NEIGHBOUR, Kind.PUBLIC])
async def test_only_the_edge_can_be_a_socket(suite, tmp_path, kind):
    with pytest.raises(SettingsError, match="WEAVER_X"):
        await suite.serve(Listener(f"unix:{tmp_path}/x.sock", kind, "WEAVER_X"))


async def test_a_taken_port_is_a_sentence_with_port_and_variable(suite):
    handle = await suite.serve()
    with pytest.raises(SettingsError) as caught:
        await suite.serve(Listener(handle.addresses[0], variable="WEAVER_AUDIT_LISTEN"))
    assert handle.addresses[0] in str(caught.value)
    assert "WEAVER_AUDIT_LISTEN" in str(caught.value)


async def test_a_taken_socket_is_not_taken_over(suite, tmp_path):
    listener = Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE)
    await suite.serve(listener)
    with pytest.raises(SettingsError, match=r"edge\.sock"):
        await suite.serve(listener)


async def test_a_socket_that_a_dead_process_left_is_replaced(suite, tmp_path):
    (tmp_path / "edge.sock").touch()
    await suite.serve(Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE))


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "192.0.2.1:0", "nonsense"])
async def test_an_address_that_cannot_be_used_is_a_sentence(suite, address):
    with pytest.raises(SettingsError, match="WEAVER_X_LISTEN"):
        await suite.serve(Listener(address, variable="WEAVER_X_LISTEN"))


async def test_ipv6_works_where_the_machine_has_it(suite):
    handle = await suite.serve(Listener("[::1]:0"))
    assert handle.addresses[0].startswith("[::1]:")
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)


async def test_an_error_arrives_as_it_was_raised(suite):
    async def answer(request: Any, context: Any) -> Any:
        raise ResourceExhausted("Too many.", retry_after_s=1.5, metadata={"quota": "requests"})

    suite.limits.answer = answer
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0]).Peek
    with pytest.raises(ResourceExhausted) as caught:
        await call(method, PEEK, timeout_s=5)
    assert caught.value.message == "Too many."
    assert caught.value.retry_after_s == 1.5
    assert caught.value.metadata == {"quota": "requests"}
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await method(PEEK, metadata=(("x-request-id", "request-1"),))
    info = error_details_pb2.RequestInfo()
    status = rpc_status.from_call(_Call(raw.value))
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.request_id == "request-1"


class _Call:
    """The synchronous face of a finished call, which grpc_status wants."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()

    def trailing_metadata(self) -> Any:
        return self._error.trailing_metadata()


async def test_a_defect_says_nothing(suite):
    async def answer(request: Any, context: Any) -> Any:
        raise KeyError("sesame")

    suite.limits.answer = answer
    handle = await suite.serve()
    with pytest.raises(Internal) as caught:
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert "sesame" not in str(caught.value.__cause__)


async def test_a_method_that_is_not_served_is_unimplemented(suite):
    handle = await suite.serve()
    with pytest.raises(Unimplemented):
        await call(suite.stub(handle.addresses[0]).Reserve, pb.ReserveRequest(), timeout_s=5)
    unknown = suite.channel(handle.addresses[0]).unary_unary("/no.Service/Method")
    with pytest.raises(Unimplemented):
        await call(unknown, b"", timeout_s=5)


async def test_the_request_id_of_a_neighbour_is_kept_and_a_strangers_is_not(suite):
    seen: list[str] = []

    async def answer(request: Any, context: Any) -> Any:
        seen.append(logs.request_id.get())
        return pb.PeekResponse()

    from services.common import logs  # noqa: PLC0415 - beside its use

    suite.limits.answer = answer
    handle = await suite.serve(Listener(LOCAL), Listener(LOCAL, Kind.PUBLIC))
    metadata = (("x-request-id", "chosen"),)
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5, metadata=metadata)
    stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(suite.stranger(handle.addresses[1]))
    await call(stub.Peek, PEEK, timeout_s=5, metadata=metadata)
    assert seen[0] == "chosen"
    assert len(seen[1]) == 32


async def test_request_id_and_trace_travel_on(suite):
    handle = await suite.serve()
    stub = suite.stub(handle.addresses[0])

    async def answer(request: Any, context: Any) -> Any:
        suite.limits.answer = _empty
        return await call(stub.Peek, PEEK, timeout_s=2)

    suite.limits.answer = answer
    trace = "a" * 32
    await call(
        stub.Peek,
        PEEK,
        timeout_s=5,
        metadata=(("x-request-id", "chosen"), ("traceparent", f"00-{trace}-{'b' * 16}-01")),
    )
    inner = suite.limits.metadata[1]
    assert inner["x-request-id"] == "chosen"
    assert str(inner["traceparent"]).startswith(f"00-{trace}-")
    assert "b" * 16 not in str(inner["traceparent"])


async def _empty(request: Any, context: Any) -> pb.PeekResponse:
    return pb.PeekResponse()


async def test_twelve_megabytes_pass_both_ways(suite):
    size = 12 * 1024 * 1024

    async def answer(request: pb.PeekRequest, context: Any) -> pb.PeekResponse:
        assert len(request.principal.subject) == size
        return pb.PeekResponse(policy_version=request.principal.subject)

    suite.limits.answer = answer
    handle = await suite.serve()
    request = pb.PeekRequest(principal=identity_pb2.Principal(subject="x" * size))
    response = await call(suite.stub(handle.addresses[0]).Peek, request, timeout_s=20)
    assert len(response.policy_version) == size


async def test_a_call_without_a_deadline_is_ended(suite):
    suite.limits.answer = lambda *_: asyncio.sleep(60)
    handle = await suite.serve(default_deadline_s=0.05)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await suite.stub(handle.addresses[0]).Peek(PEEK)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert suite.limits.cancelled.is_set()


async def test_a_callers_deadline_cancels_the_servicer(suite):
    suite.limits.answer = lambda *_: asyncio.sleep(60)
    handle = await suite.serve()
    with pytest.raises(DeadlineExceeded):
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=0.1)
    await asyncio.wait_for(suite.limits.cancelled.wait(), 5)


async def test_cancelling_a_call_cancels_the_servicer(suite):
    started = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    suite.limits.answer = answer
    handle = await suite.serve()
    task = asyncio.create_task(call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=60))
    await asyncio.wait_for(started.wait(), 5)
    task.cancel()
    await asyncio.wait_for(suite.limits.cancelled.wait(), 0.5)
    await asyncio.wait([task])
    assert task.cancelled()


async def model_stub(suite: Suite) -> Any:
    handle = await suite.serve()
    return model_service_pb2_grpc.ModelServiceStub(suite.channel(handle.addresses[0]))


async def test_a_stream_arrives_and_ends(suite):
    stub = await model_stub(suite)
    assert len([chunk async for chunk in stream(stub.GenerateStream, STREAM)]) == 3


async def test_a_stream_that_is_left_waiting_is_cancelled_promptly(suite):
    suite.model.end = lambda: asyncio.sleep(60)
    stub = await model_stub(suite)
    async with aclosing(stream(stub.GenerateStream, STREAM)) as chunks:
        await anext(chunks)
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)


async def test_a_stream_that_is_left_in_full_flow_is_closed_promptly(suite):
    suite.model.chunks = 10**9
    stub = await model_stub(suite)
    async with aclosing(stream(stub.GenerateStream, STREAM)) as chunks:
        await anext(chunks)
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)


async def test_cancelling_the_reader_cancels_the_stream(suite):
    suite.model.end = lambda: asyncio.sleep(60)
    stub = await model_stub(suite)
    seen = asyncio.Event()

    async def read() -> None:
        async for _ in stream(stub.GenerateStream, STREAM):
            seen.set()

    task = asyncio.create_task(read())
    await asyncio.wait_for(seen.wait(), 5)
    task.cancel()
    await asyncio.wait_for(suite.model.closed.wait(), 0.5)
    await asyncio.wait([task])
    assert task.cancelled()


async def test_an_error_within_a_stream_arrives_after_its_messages(suite):
    async def end() -> None:
        raise NotFound("No more.")

    suite.model.end = end
    stub = await model_stub(suite)
    received = 0
    with pytest.raises(NotFound, match="No more"):
        async for _ in stream(stub.GenerateStream, STREAM):
            received += 1
    assert received == 3


async def test_a_drain_lets_calls_in_flight_end_and_refuses_new_ones(suite):
    started, gate = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, context: Any) -> pb.PeekResponse:
        started.set()
        await gate.wait()
        return pb.PeekResponse(policy_version="kept")

    suite.limits.answer = answer
    handle = await suite.serve()
    stub = suite.stub(handle.addresses[0])
    health = health_pb2_grpc.HealthStub(suite.channel(handle.addresses[0]))
    async with aclosing(stream(health.Watch, health_pb2.HealthCheckRequest())) as states:
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.SERVING
        in_flight = asyncio.create_task(call(stub.Peek, PEEK, timeout_s=30))
        await asyncio.wait_for(started.wait(), 5)
        drain = asyncio.create_task(handle.drain(10))
        assert (await anext(states)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(StopAsyncIteration):
            await anext(states)
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert not drain.done()
    gate.set()
    assert (await in_flight).policy_version == "kept"
    await asyncio.wait_for(drain, 5)


async def test_a_drain_ends_what_outlives_its_grace(suite):
    started = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    suite.limits.answer = answer
    handle = await suite.serve()
    task = asyncio.create_task(call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=60))
    await asyncio.wait_for(started.wait(), 5)
    await asyncio.wait_for(handle.drain(0.05), 5)
    with pytest.raises(Unavailable):
        await task
    assert suite.limits.cancelled.is_set()


@pytest.mark.parametrize("environment", ["development", "staging"])
async def test_reflection_is_for_development(tmp_path, environment):
    async with AsyncExitStack() as stack:
        suite = Suite(CommonSettings(state_dir=tmp_path, environment=environment), stack)
        handle = await suite.serve()
        stub = reflection_pb2_grpc.ServerReflectionStub(suite.channel(handle.addresses[0]))
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        replies = stub.ServerReflectionInfo(iter([request]))
        if environment == "development":
            names = [
                service.name
                async for reply in replies
                for service in reply.list_services_response.service
            ]
            assert RATELIMIT in names
            assert "grpc.health.v1.Health" in names
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await anext(aiter(replies))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_mutual_tls_names_are_claimed_and_a_warning_says_so(tmp_path):
    async with AsyncExitStack() as stack:
        suite = Suite(CommonSettings(state_dir=tmp_path, mtls_enabled=False), stack)
        handle = await suite.serve(Listener(LOCAL), Listener(LOCAL, Kind.EDGE))
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
        await call(suite.stub(handle.addresses[1]).Peek, PEEK, timeout_s=5)
        assert suite.limits.peers == ["gateway", "envoy"]
        with pytest.raises(Unavailable):
            await call(suite.stub(handle.addresses[0], own="model").Peek, PEEK, timeout_s=5)
        assert not suite.settings.tls_path.exists()
