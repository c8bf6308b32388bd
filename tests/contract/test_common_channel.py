"""Channels over time: restarts, retries, renewed certificates."""

import asyncio
import datetime as dt
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from services.common import certificates, outage, renewing_channel
from services.common.channel import call, open_channel, service_config
from services.common.errors import DeadlineExceeded, Unavailable, WeaverError
from services.common.server import Listener, ServerHandle, start_server
from services.common.settings import CommonSettings
from tests.fakes.limits import PEEK, ScriptedLimits, component
from tests.fakes.names import Names
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

REQUEST = pb.PeekRequest()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def settings(tmp_path: Path) -> CommonSettings:
    return CommonSettings(state_dir=tmp_path)


async def serve(
    settings: CommonSettings, stack: AsyncExitStack, limits: ScriptedLimits, address: str
) -> ServerHandle:
    return await start_server(
        component(limits), settings, stack, [Listener(address)], allowed_clients=("gateway",)
    )


def connect(
    settings: CommonSettings, stack: AsyncExitStack, address: str, **options: Any
) -> tuple[grpc.aio.Channel, Any]:
    channel = open_channel(address, settings, own="gateway", peer="ratelimit", **options)
    stack.push_async_callback(channel.close)
    return channel, ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)


class CountedLimits(ScriptedLimits):
    """Counts calls."""

    def __init__(self, pause_s: float = 0.001) -> None:
        super().__init__()
        self.calls = 0

        async def answer(request: Any, context: Any) -> pb.PeekResponse:
            self.calls += 1
            await asyncio.sleep(pause_s)
            return pb.PeekResponse()

        self.answer = answer


async def eventually(attempt: Callable[[], Any], within_s: float) -> float:
    start = time.monotonic()
    while True:
        try:
            await attempt()
        except Unavailable:
            if time.monotonic() - start > within_s:
                raise
            await asyncio.sleep(0.01)
        else:
            return time.monotonic() - start


async def test_a_neighbour_that_comes_back_is_found_within_two_seconds(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    address = handle.addresses[0]
    _, stub = connect(settings, stack, address)
    await call(stub.Peek, REQUEST, timeout_s=5)
    await handle.drain(0)
    with pytest.raises(Unavailable):
        await call(stub.Peek, REQUEST, timeout_s=5)
    await asyncio.sleep(1)
    await serve(settings, stack, limits, address)
    await eventually(lambda: call(stub.Peek, REQUEST, timeout_s=1), within_s=2)


async def test_what_may_be_repeated_is_repeated_and_nothing_else(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    attempts = 0

    async def answer(request: Any, context: Any) -> pb.PeekResponse:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Unavailable("Not yet.")
        return pb.PeekResponse()

    limits.answer = answer
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    _, plain = connect(settings, stack, handle.addresses[0])
    with pytest.raises(Unavailable, match="Not yet"):
        await call(plain.Peek, REQUEST, timeout_s=5)
    assert attempts == 1
    _, repeating = connect(settings, stack, handle.addresses[0], idempotent=(PEEK,))
    await call(repeating.Peek, REQUEST, timeout_s=5)
    assert attempts == 3


def test_the_service_config_names_methods_and_spreads_over_addresses() -> None:
    config = json.loads(service_config([PEEK]))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    (method,) = config["methodConfig"]
    assert method["name"] == [{"service": "weaver.ratelimit.v1.RateLimitService", "method": "Peek"}]
    assert method["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]
    assert "methodConfig" not in json.loads(service_config([]))


async def test_a_name_with_several_addresses_is_resolved(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, f"dns:///localhost:{handle.ports[0]}")
    await call(stub.Peek, REQUEST, timeout_s=5)


async def test_renewed_certificates_are_taken_up_by_both_ends(
    settings: CommonSettings, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing_channel, "LOOK_S", 0.0)
    limits = ScriptedLimits()
    serials: list[int] = []
    gate, started = asyncio.Event(), asyncio.Event()

    async def answer(request: Any, context: Any) -> pb.PeekResponse:
        pem = context.auth_context()["x509_pem_cert"][0]
        serials.append(x509.load_pem_x509_certificate(pem).serial_number)
        if len(serials) == 1:
            started.set()
            await gate.wait()
        return pb.PeekResponse()

    limits.answer = answer
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, handle.addresses[0])
    in_flight = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=20))
    await asyncio.wait_for(started.wait(), 5)

    later = dt.datetime.now(dt.UTC) + dt.timedelta(days=70)
    before = served_serial(handle.ports[0])
    monkeypatch.setattr(certificates, "_CLOCK_SKEW", dt.timedelta(days=71))
    assert "gateway" in certificates.ensure(settings, now=later)

    await call(stub.Peek, REQUEST, timeout_s=5)
    gate.set()
    await in_flight
    assert serials[0] != serials[1]
    ours = x509.load_pem_x509_certificate((settings.tls_path / "gateway.pem").read_bytes())
    assert serials[1] == ours.serial_number
    assert served_serial(handle.ports[0]) != before


def served_serial(port: int) -> int:
    """Return the serial number of the certificate that a handshake shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


async def test_closing_a_channel_breaks_off_its_calls(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    started = asyncio.Event()

    async def answer(request: Any, context: Any) -> Any:
        started.set()
        await asyncio.sleep(60)

    limits.answer = answer
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    channel, stub = connect(settings, stack, handle.addresses[0])
    task = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=60))
    await asyncio.wait_for(started.wait(), 5)
    await channel.close()
    with pytest.raises(Unavailable) as caught:
        await task
    assert caught.value.reason == "CANCELLED"


async def test_a_channel_reports_its_state(settings: CommonSettings, stack: AsyncExitStack) -> None:
    handle = await serve(settings, stack, ScriptedLimits(), "127.0.0.1:0")
    channel = open_channel(handle.addresses[0], settings, own="gateway", peer="ratelimit")
    async with channel:
        assert channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.IDLE
        await channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE)
        await asyncio.wait_for(channel.channel_ready(), 5)
        assert channel.get_state() is grpc.ChannelConnectivity.READY
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_streams_of_requests_pass(settings: CommonSettings, stack: AsyncExitStack) -> None:
    handle = await serve(settings, stack, ScriptedLimits(), "127.0.0.1:0")
    channel, _ = connect(settings, stack, handle.addresses[0])
    method: Any = channel.stream_unary("/no.Service/Method")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(iter([b""]))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_waits_for_a_neighbour_that_was_just_lost(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    first = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, first.addresses[0])
    await call(stub.Peek, REQUEST, timeout_s=5)
    await first.drain(0)

    async def come_back() -> None:
        await asyncio.sleep(0.6)
        await serve(settings, stack, limits, first.addresses[0])

    coming = asyncio.create_task(come_back())
    start = time.monotonic()
    # Peek is not repeated by gRPC here: it was never sent.
    await call(stub.Peek, REQUEST, timeout_s=5)
    assert time.monotonic() - start >= 0.5
    await coming


async def test_what_a_server_that_ends_had_not_begun_is_sent_to_another(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    """Also what must not be sent twice: nobody had looked at it."""
    counted = CountedLimits()
    handles = [await serve(settings, stack, counted, "127.0.0.1:0") for _ in range(2)]
    _, stub = connect(settings, stack, f"ipv4:{handles[0].addresses[0]},{handles[1].addresses[0]}")
    done = ended = 0

    async def calls() -> None:
        nonlocal done
        while not ended:
            await call(stub.Peek, REQUEST, timeout_s=5)
            done += 1

    callers = [asyncio.create_task(calls()) for _ in range(30)]
    await asyncio.sleep(0.3)
    await handles[0].drain(5)
    await asyncio.sleep(0.1)
    ended = 1
    await asyncio.gather(*callers)
    assert done == counted.calls > 100


async def test_what_was_begun_and_is_broken_off_is_not_sent_again(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    counted = CountedLimits(pause_s=30)
    handles = [await serve(settings, stack, counted, "127.0.0.1:0") for _ in range(2)]
    _, stub = connect(settings, stack, f"ipv4:{handles[0].addresses[0]},{handles[1].addresses[0]}")
    asked = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=20))
    while not counted.calls:
        await asyncio.sleep(0.01)
    await asyncio.gather(*(handle.drain(1.2) for handle in handles))
    with pytest.raises(WeaverError):
        await asked
    assert counted.calls == 1


async def test_only_one_who_is_patient_waits_longer_than_a_call_may_take(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()
    first = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, first.addresses[0])
    await call(stub.Peek, REQUEST, timeout_s=5)
    await first.drain(0)
    # Something that takes the connection and says nothing, as a machine that has just gone.
    host, _, port = first.addresses[0].rpartition(":")
    writers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _, out: writers.append(out), host, int(port))
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await call(stub.Peek, REQUEST, timeout_s=0.3)

    async def come_back() -> None:
        await asyncio.sleep(1)
        silent.close()
        for writer in writers:
            writer.close()
        await serve(settings, stack, limits, first.addresses[0])

    coming = asyncio.create_task(come_back())
    start = time.monotonic()
    await call(stub.Peek, REQUEST, timeout_s=0.3, patience_s=10)
    assert time.monotonic() - start >= 0.5
    await coming


async def test_patience_is_none_for_a_neighbour_that_is_there_and_slow(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    limits = ScriptedLimits()

    async def answer(request: Any, context: Any) -> pb.PeekResponse:
        await asyncio.sleep(5)
        return pb.PeekResponse()

    limits.answer = answer
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, handle.addresses[0])
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await call(stub.Peek, REQUEST, timeout_s=0.3, patience_s=10)
    assert time.monotonic() - start < 2


async def test_a_name_is_found_where_a_name_server_says_nothing_at_first(
    settings: CommonSettings, stack: AsyncExitStack
) -> None:
    """Each look-up asks again, or the next server, before it is given up."""
    handle = await serve(settings, stack, ScriptedLimits(), "127.0.0.1:0")
    with Names(0.0, forgetful=True) as names:
        names.add("ratelimit", "127.0.0.1")
        address = f"dns://127.0.0.1:{names.port}/ratelimit.test:{handle.ports[0]}"
        _, stub = connect(settings, stack, address)
        await call(stub.Peek, REQUEST, timeout_s=10)


async def test_a_neighbour_that_stays_away_is_waited_for_once_and_then_refuses_at_once(
    settings: CommonSettings, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "PATIENCE_S", 0.3)
    _, stub = connect(settings, stack, "127.0.0.1:1")
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await call(stub.Peek, REQUEST, timeout_s=5)
    assert 0.3 <= time.monotonic() - start < 2
    start = time.monotonic()
    with pytest.raises(Unavailable):
        await call(stub.Peek, REQUEST, timeout_s=5)
    assert time.monotonic() - start < 0.2


async def test_a_neighbour_that_is_lost_again_soon_is_waited_for_again(
    settings: CommonSettings, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when replicas are replaced one after the other, each in a few seconds."""
    monkeypatch.setattr(outage, "PATIENCE_S", 1.0)
    limits = ScriptedLimits()
    handle = await serve(settings, stack, limits, "127.0.0.1:0")
    _, stub = connect(settings, stack, handle.addresses[0])
    await call(stub.Peek, REQUEST, timeout_s=5)
    for _ in range(4):
        await handle.drain(0)
        waiting = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=5))
        await asyncio.sleep(0.2)
        handle = await serve(settings, stack, limits, handle.addresses[0])
        await waiting
