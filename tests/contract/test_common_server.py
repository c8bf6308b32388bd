"""A component behind real listeners: TLS, peers, health, reflection."""

import asyncio
import logging
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal, cast

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from services.common import logs, server
from services.common.channel import call
from services.common.errors import (
    Unavailable,
)
from services.common.server import Kind, Listener
from services.common.settings import CommonSettings, SettingsError
from tests.fakes.limits import PEEK as PATH
from tests.fakes.limits import RATELIMIT
from tests.fakes.served import LOCAL, Suite
from weaver.model.v1 import model_service_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PEEK = pb.PeekRequest()
STREAM = model_service_pb2.GenerateStreamRequest()


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        yield Suite(CommonSettings(state_dir=tmp_path), stack)


async def test_a_neighbour_on_the_list_is_served_by_its_name(suite: Suite) -> None:
    handle = await suite.serve()
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == ["gateway"]
    assert handle.ports[0] > 0


async def test_a_neighbour_that_is_not_on_the_list_is_refused(suite: Suite) -> None:
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0], own="model").Peek
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(PEEK)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(Unavailable) as translated:
        await call(method, PEEK, timeout_s=5)
    assert translated.value.reason == "PEER_NOT_ALLOWED"
    assert suite.limits.peers == []


async def test_a_name_in_metadata_is_not_believed(suite: Suite) -> None:
    handle = await suite.serve()
    method = suite.stub(handle.addresses[0], own="model").Peek
    with pytest.raises(Unavailable):
        await call(method, PEEK, timeout_s=5, metadata=(("x-weaver-peer", "gateway"),))


async def test_health_answers_any_neighbour(suite: Suite) -> None:
    handle = await suite.serve()
    stub = suite.health(suite.channel(handle.addresses[0], own="audit"))
    response = await call(stub.Check, health_pb2.HealthCheckRequest(service=RATELIMIT), timeout_s=5)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    listed = await call(stub.List, cast("Any", health_pb2).HealthListRequest(), timeout_s=5)
    assert set(listed.statuses) == {"", RATELIMIT, "weaver.model.v1.ModelService"}


async def test_a_stranger_without_a_certificate_does_not_get_in(suite: Suite) -> None:
    handle = await suite.serve()
    stub = suite.health(suite.stranger(handle.addresses[0]))
    with pytest.raises(Unavailable):
        await call(stub.Check, health_pb2.HealthCheckRequest(), timeout_s=5)


async def test_a_neighbour_that_is_not_who_it_should_be_is_not_called(suite: Suite) -> None:
    handle = await suite.serve()
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0], peer="audit").Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == []


async def test_the_public_listener_serves_anyone_without_a_name(suite: Suite) -> None:
    handle = await suite.serve(Listener(LOCAL, Kind.PUBLIC))
    stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(suite.stranger(handle.addresses[0]))
    await call(stub.Peek, PEEK, timeout_s=5, metadata=(("x-weaver-peer", "gateway"),))
    assert suite.limits.peers == [""]


async def test_the_edge_socket_is_envoys_and_ours_alone(suite: Suite, tmp_path: Path) -> None:
    path = tmp_path / "run" / "edge.sock"
    handle = await suite.serve(Listener(f"unix:{path}", Kind.EDGE))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert handle.ports == (0,)
    channel = suite.raw(grpc.aio.insecure_channel(f"unix:{path}"))
    await ratelimit_service_pb2_grpc.RateLimitServiceStub(channel).Peek(PEEK)
    assert suite.limits.peers == ["envoy"]


async def test_a_credential_that_is_not_utf8_stays_out_of_the_log(
    suite: Suite, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    library = logging.getLogger("grpc._cython.cygrpc")
    handler = logs._StandardLibrary()
    library.addHandler(handler)
    request.addfinalizer(lambda: library.removeHandler(handler))
    await suite.serve(Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE))
    transport = httpx.AsyncHTTPTransport(uds=f"{tmp_path}/edge.sock", http1=False, http2=True)
    headers = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    headers += [(b"x-api-key", b"sesame\xa0")]
    with capture_logs() as written:
        async with httpx.AsyncClient(transport=transport) as client:
            await client.post(f"http://edge{PATH}", content=bytes(5), headers=headers)
    assert suite.limits.metadata[0]["x-api-key"] == "sesame\xa0"
    assert "sesame" not in str(written)


async def test_the_edge_port_lets_envoy_in_and_nobody_else(suite: Suite) -> None:
    handle = await suite.serve(Listener(LOCAL, Kind.EDGE))
    await call(suite.stub(handle.addresses[0], own="envoy").Peek, PEEK, timeout_s=5)
    with pytest.raises(Unavailable):
        await call(suite.stub(handle.addresses[0], own="gateway").Peek, PEEK, timeout_s=5)
    assert suite.limits.peers == ["envoy"]


async def test_two_listeners_serve_the_same_component(suite: Suite, tmp_path: Path) -> None:
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
async def test_only_the_edge_can_be_a_socket(suite: Suite, tmp_path: Path, kind: Kind) -> None:
    with pytest.raises(SettingsError, match="WEAVER_X"):
        await suite.serve(Listener(f"unix:{tmp_path}/x.sock", kind, "WEAVER_X"))


async def test_a_taken_port_is_a_sentence_with_port_and_variable(suite: Suite) -> None:
    handle = await suite.serve()
    with pytest.raises(SettingsError) as caught:
        await suite.serve(Listener(handle.addresses[0], variable="WEAVER_AUDIT_LISTEN"))
    assert handle.addresses[0] in str(caught.value)
    assert "WEAVER_AUDIT_LISTEN" in str(caught.value)


async def test_a_taken_socket_is_not_taken_over(suite: Suite, tmp_path: Path) -> None:
    listener = Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE)
    await suite.serve(listener)
    with pytest.raises(SettingsError, match=r"edge\.sock"):
        await suite.serve(listener)


async def test_a_socket_that_a_dead_process_left_is_replaced(suite: Suite, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "edge.sock"))
    await suite.serve(Listener(f"unix:{tmp_path}/edge.sock", Kind.EDGE))


async def test_a_file_in_the_place_of_a_socket_is_kept(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(SettingsError, match="not a socket"):
        await suite.serve(Listener(f"unix:{tmp_path}/notes.txt", Kind.EDGE))
    assert (tmp_path / "notes.txt").read_text() == "precious"


async def test_a_socket_path_that_is_too_long_is_a_sentence(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WEAVER_X"):
        await suite.serve(Listener(f"unix:{tmp_path}/{'x' * 200}", Kind.EDGE, "WEAVER_X"))


async def test_a_process_that_runs_for_weeks_renews_its_certificates(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_RENEWAL_S", 0.01)
    await suite.serve()
    (suite.settings.tls_path / "audit.pem").unlink()
    async with asyncio.timeout(5):
        while not (suite.settings.tls_path / "audit.pem").exists():
            await asyncio.sleep(0.01)


async def test_a_renewal_that_fails_is_tried_again(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_RENEWAL_S", 0.01)
    await suite.serve()
    directory = suite.settings.tls_path
    directory.rename(directory.with_name("away"))
    with capture_logs() as written:
        directory.touch()
        async with asyncio.timeout(5):
            while not any(line["event"] == "cannot renew certificates" for line in written):
                await asyncio.sleep(0.01)
    directory.unlink()
    async with asyncio.timeout(5):
        while not (directory / "audit.pem").exists():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "192.0.2.1:0", "nonsense"])
async def test_an_address_that_cannot_be_used_is_a_sentence(suite: Suite, address: str) -> None:
    with pytest.raises(SettingsError, match="WEAVER_X_LISTEN"):
        await suite.serve(Listener(address, variable="WEAVER_X_LISTEN"))


async def test_ipv6_works_where_the_machine_has_it(suite: Suite) -> None:
    handle = await suite.serve(Listener("[::1]:0"))
    assert handle.addresses[0].startswith("[::1]:")
    await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)


@pytest.mark.parametrize("environment", ["development", "staging"])
async def test_reflection_is_for_development(
    tmp_path: Path, environment: Literal["development", "staging"]
) -> None:
    async with AsyncExitStack() as stack:
        suite = Suite(CommonSettings(state_dir=tmp_path, environment=environment), stack)
        handle = await suite.serve()
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(suite.channel(handle.addresses[0]))
        request = cast("Any", reflection_pb2).ServerReflectionRequest(list_services="")
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
            # The status can overtake the request, so it is asked for and not read for.
            assert await replies.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_without_mutual_tls_names_are_claimed_and_a_warning_says_so(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        suite = Suite(CommonSettings(state_dir=tmp_path, mtls_enabled=False), stack)
        handle = await suite.serve(Listener(LOCAL), Listener(LOCAL, Kind.EDGE))
        await call(suite.stub(handle.addresses[0]).Peek, PEEK, timeout_s=5)
        await call(suite.stub(handle.addresses[1]).Peek, PEEK, timeout_s=5)
        assert suite.limits.peers == ["gateway", "envoy"]
        with pytest.raises(Unavailable):
            await call(suite.stub(handle.addresses[0], own="model").Peek, PEEK, timeout_s=5)
        assert not suite.settings.tls_path.exists()


async def test_what_a_call_costs_does_not_grow_with_the_contract(suite: Suite) -> None:
    """`grpc.aio` waits with every call for one future per method that the core knows."""
    await suite.serve()
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    waiting = [name for name in names if name.endswith("_request_registered_call")]
    assert len(waiting) <= 1, names
