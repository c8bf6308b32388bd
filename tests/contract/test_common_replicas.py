"""Replicas that are replaced one after the other, behind a name whose server is late."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common import channel as channel_module
from services.common import discovery, outage, renewing_channel
from services.common.channel import call, open_channel, stream
from services.common.discovery import Discovery
from services.common.errors import Unavailable
from services.common.server import Listener, ServerHandle, start_server
from services.common.settings import CommonSettings
from tests.fakes.limits import ScriptedLimits, component
from tests.fakes.names import Names
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

REQUEST = pb.PeekRequest()
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Replicas:
    """Servers on one port of several addresses, and what a resolver says of their name.

    Attributes:
        told: the addresses that our own look-ups find; gRPC's find the first alone.
        answering: whether our own look-ups are answered.
        calls: how many arrived at each address.
    """

    def __init__(self, settings: CommonSettings, stack: AsyncExitStack) -> None:
        self.told = [FIRST]
        self.calls: dict[str, int] = {}
        self.pause_s = 0.001
        self.answering = asyncio.Event()
        self.answering.set()
        self._settings, self._stack = settings, stack
        self._names = stack.enter_context(Names(0.0))
        self._names.add("limiter", FIRST)
        self.port = 0

    async def start(self, address: str) -> ServerHandle:
        """Serve on an address."""
        limits = ScriptedLimits()
        self.calls[address] = 0

        async def answer(request: Any, context: Any) -> pb.PeekResponse:
            self.calls[address] += 1
            await asyncio.sleep(self.pause_s)
            return pb.PeekResponse()

        limits.answer = answer
        handle = await start_server(
            component(limits),
            self._settings,
            self._stack,
            [Listener(f"{address}:{self.port}")],
            allowed_clients=("gateway",),
        )
        self.port = handle.ports[0]
        return handle

    def connect(self) -> Any:
        """Return a stub for their name."""
        address = f"dns://127.0.0.1:{self._names.port}/limiter.test:{self.port}"
        channel = open_channel(address, self._settings, own="gateway", peer="ratelimit")
        self._stack.push_async_callback(channel.close)
        return ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)

    async def resolve(self, host: str, port: int) -> list[str]:
        """Answer our own look-ups."""
        await self.answering.wait()
        return list(self.told)


@pytest.fixture(params=[True, False], ids=["tls", "clear"])
async def replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        settings = CommonSettings(state_dir=tmp_path, mtls_enabled=request.param)
        found = Replicas(settings, stack)
        monkeypatch.setattr(discovery, "LOOK_S", 0.01)
        monkeypatch.setattr(channel_module, "named", lambda _: ("limiter", found.port))
        monkeypatch.setattr(channel_module, "Discovery", partial(Discovery, resolve=found.resolve))
        yield found


async def until_called(replicas: Replicas, stub: Any, address: str) -> None:
    async with asyncio.timeout(10):
        while not replicas.calls[address]:
            await call(stub.Peek, REQUEST, timeout_s=5)


async def test_a_new_replica_gets_calls_before_an_old_one_leaves(replicas: Replicas) -> None:
    """Also where gRPC's own look-up of the name does not have it yet."""
    replicas.pause_s = 0.3
    first = await replicas.start(FIRST)
    stub = replicas.connect()
    await call(stub.Peek, REQUEST, timeout_s=5)
    under_way = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=5))
    await asyncio.sleep(0.1)
    replicas.pause_s = 0.001
    await replicas.start(SECOND)
    replicas.told.append(SECOND)
    await until_called(replicas, stub, SECOND)
    await under_way
    await first.drain(5)
    start = time.monotonic()
    for _ in range(20):
        await call(stub.Peek, REQUEST, timeout_s=5)
    assert time.monotonic() - start < 2


async def test_a_replica_that_is_named_before_it_listens_is_found(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing_channel, "READY_S", 0.1)
    first = await replicas.start(FIRST)
    stub = replicas.connect()
    await call(stub.Peek, REQUEST, timeout_s=5)
    await first.drain(5)
    replicas.told[:] = [SECOND]
    waiting = asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=5))
    await asyncio.sleep(0.5)
    await replicas.start(SECOND)
    await waiting
    assert replicas.calls[SECOND] == 1


async def test_calls_wait_while_no_name_server_says_where_the_others_are(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Podman, whose bridges change their hardware address when containers come and go."""
    monkeypatch.setattr(outage, "PATIENCE_S", 0.5)
    monkeypatch.setattr(discovery, "SILENT_S", 0.1)
    first = await replicas.start(FIRST)
    stub = replicas.connect()
    await call(stub.Peek, REQUEST, timeout_s=5)
    replicas.answering.clear()
    await replicas.start(SECOND)
    replicas.told[:] = [SECOND]
    await asyncio.sleep(0.1)
    await first.drain(5)
    waiting = [asyncio.create_task(call(stub.Peek, REQUEST, timeout_s=10)) for _ in range(5)]
    await asyncio.sleep(1.5)
    replicas.answering.set()
    await asyncio.gather(*waiting)
    assert replicas.calls[SECOND] == len(waiting)


class Lost:
    """A method of a neighbour that cannot be reached for a while."""

    def __init__(self, waiting: outage.Outage, for_s: float) -> None:
        self.outage = waiting
        self._until = time.monotonic() + for_s

    async def __call__(self, *_: object, **options: object) -> AsyncGenerator[str, None]:
        if time.monotonic() < self._until:
            nothing = grpc.aio.Metadata()
            said = "connections to all backends failing; last error: UNKNOWN"
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, said)
        yield "answer"


async def test_streams_without_a_deadline_wait_for_silent_name_servers_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (outage, channel_module):
        monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    silent = Lost(outage.Outage(lambda: False, lambda _: True), 0.6)
    assert [step async for step in stream(silent, REQUEST)] == ["answer"]
    answering = Lost(outage.Outage(lambda: False), 0.6)
    with pytest.raises(Unavailable):
        await anext(stream(answering, REQUEST))
