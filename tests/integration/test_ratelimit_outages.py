"""Two limiters and one real store that is killed, paused, restarted empty, or unfit."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from services.common import certificates
from services.common.channel import call
from services.common.component import Component
from services.common.local import LocalChannel
from services.common.settings import CommonSettings, SettingsError, load
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build
from tests.fakes.valkey import Valkey
from weaver.common.v1 import identity_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

PRINCIPAL = identity_pb2.Principal(tenant="acme", issuer="apikey", subject="k1")
RATE, BURST = 50.0, 20
# The deadline of an exchange is 50 ms; the rest is for a machine that is busy with other things.
DEADLINE_S = 0.25


class Replica:
    """One limiter under steady load."""

    def __init__(self, component: Component) -> None:
        channel = LocalChannel("gateway")
        component.register(channel)
        self.component = component
        self.stub: Any = rpc.RateLimitServiceStub(cast("Any", channel))
        self.decided: list[tuple[float, float, pb.ReserveResponse]] = []

    async def load(self) -> None:
        while True:
            request = pb.ReserveRequest(reservation_id=os.urandom(16), principal=PRINCIPAL)
            started = time.monotonic()
            response: pb.ReserveResponse = await call(self.stub.Reserve, request, timeout_s=2)
            self.decided.append((started, time.monotonic() - started, response))
            await asyncio.sleep(0.005)

    async def until(self, source: "pb.Source.ValueType", *, within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not self.decided or self.decided[-1][2].source != source:
                await asyncio.sleep(0.01)

    def value(self, name: str) -> float | None:
        return self.component.metrics.get_sample_value(name)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def replicas(valkey: Valkey) -> AsyncIterator[list[Replica]]:
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        rps=RATE,
        burst=BURST,
        audit_address="",
    )
    async with AsyncExitStack() as stack:
        yield [Replica(await build(settings, stack)) for _ in range(2)]


async def until(condition: Any, within_s: float = 3) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["killed and restarted empty", "paused"])
async def test_the_declared_policy_holds_and_decisions_are_right_again_within_two_seconds(
    valkey: Valkey, replicas: list[Replica], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await until(lambda: all(one.value("ratelimit_replicas") == 2 for one in replicas))
    loads = [asyncio.create_task(replica.load()) for replica in replicas]
    try:
        for replica in replicas:
            await replica.until(pb.SOURCE_STORE, within_s=2)
        await asyncio.sleep(1)
        (valkey.pause if how == "paused" else valkey.kill)()
        for replica in replicas:
            await replica.until(pb.SOURCE_LOCAL, within_s=1)
        await asyncio.sleep(1.5)
        (valkey.resume if how == "paused" else valkey.start)()
        for replica in replicas:
            await replica.until(pb.SOURCE_STORE, within_s=2)
        await asyncio.sleep(1)
    finally:
        valkey.resume()
        for task in loads:
            task.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    decisions = [item for replica in replicas for item in replica.decided]
    slowest = max(seconds for _, seconds, _ in decisions)
    admitted = sorted(
        at for at, _, response in decisions if response.verdict == pb.VERDICT_ADMITTED
    )
    excess = len(admitted) - (BURST + RATE * (admitted[-1] - admitted[0]))
    with capsys.disabled():
        print(  # noqa: T201 - what is asked for
            f"\nstore {how}: slowest decision {slowest * 1000:.0f} ms, excess {excess:+.1f}"
        )
    assert slowest < DEADLINE_S
    # Into memory, each with half a burst, and back to a store that is empty or has refilled; until
    # the last limiter is back, at most a second, its share comes on top.
    assert excess <= 2 * BURST + RATE / 2


async def test_an_idle_store_that_hangs_shows_within_seconds(
    valkey: Valkey, replicas: list[Replica]
) -> None:
    health = replicas[0].component.health
    assert health.snapshot()["store"] == (True, "")
    valkey.pause()
    await until(lambda: not health.snapshot()["store"][0], within_s=2)
    valkey.resume()
    await until(lambda: health.snapshot()["store"][0], within_s=2)


async def test_limiters_count_each_other_and_share_when_the_store_is_gone(
    valkey: Valkey, replicas: list[Replica]
) -> None:
    await until(lambda: all(one.value("ratelimit_replicas") == 2 for one in replicas))
    valkey.kill()
    await until(lambda: not replicas[0].component.health.snapshot()["store"][0])
    peek = await call(replicas[0].stub.Peek, pb.PeekRequest(principal=PRINCIPAL), timeout_s=1)
    assert (peek.source, peek.limits[0].limit) == (pb.SOURCE_LOCAL, BURST // 2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--maxmemory-policy", "allkeys-lru"), "maxmemory-policy is allkeys-lru, not noeviction"),
        (("--maxmemory", "0"), "maxmemory is not set"),
    ],
)
async def test_a_store_that_forgets_is_refused_in_production_and_a_warning_elsewhere(
    tmp_path: Path, options: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = load(CommonSettings, state_dir=tmp_path)
    certificates.ensure(made)
    with Valkey(tmp_path, *options) as server:
        where = {"redis_unix_socket": server.socket, "audit_address": ""}
        async with AsyncExitStack() as stack:
            replica = Replica(await build(load(RatelimitSettings, **where), stack))
            assert replica.value("ratelimit_store_fit") == 0
            assert replica.component.health.snapshot()["store"] == (True, "")
        assert complaint in capsys.readouterr().out
        production = load(
            RatelimitSettings, environment="production", tls_dir=made.tls_path, **where
        )
        async with AsyncExitStack() as stack:
            with pytest.raises(SettingsError, match=complaint) as caught:
                await build(production, stack)
            assert str(caught.value).startswith("REDIS_HOST: ")
