"""Limits hold across replicas, to the last request, token and micro, whatever their clocks say."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.channel import call
from services.common.clock import SystemClock
from services.common.local import LocalChannel
from services.common.settings import load
from services.ratelimit import wiring
from services.ratelimit.settings import RatelimitSettings
from tests.fakes.valkey import Valkey
from weaver.common.v1 import identity_pb2, usage_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

MICRO = 1_000_000
SKEWS_S = (0.0, 3600.0, -86_400.0, 12.5)
TTL_US = 60 * MICRO
POLICY = """
version: 1
rules:
  - {name: day_of_all, scope: global, unit: tokens, limit: 60000, per: day}
  - {name: day_of_tenant, scope: tenant, unit: cost_micros, limit: 40000, per: day}
  - {name: at_once, scope: tenant, unit: concurrency, limit: 30}
  - {name: requests, limit: 100000, per: second}
"""


class SkewedClock(SystemClock):
    """A clock that is wrong."""

    def __init__(self, skew_s: float) -> None:
        self._skew_s = skew_s

    def time(self) -> float:
        return super().time() + self._skew_s

    def monotonic(self) -> float:
        return super().monotonic() + abs(self._skew_s)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def stubs(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: Any
) -> AsyncIterator[list[Any]]:
    """Return the stubs of four replicas whose clocks disagree."""
    options: dict[str, Any] = {"rps": 100.0, "burst": 100}
    if request.param:
        (tmp_path / "policy.yaml").write_text(request.param)
        options = {"policy_file": tmp_path / "policy.yaml"}
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        audit_address="",
        store_timeout_ms=3000,
        on_store_failure="deny",
        **options,
    )
    async with AsyncExitStack() as stack:
        found = []
        for skew_s in SKEWS_S:
            clock = SkewedClock(skew_s)
            monkeypatch.setattr(wiring, "SystemClock", lambda clock=clock: clock)
            component = await wiring.build(settings, stack)
            channel = LocalChannel("gateway")
            component.register(channel)
            found.append(rpc.RateLimitServiceStub(cast("Any", channel)))
        yield found


@pytest.mark.parametrize("stubs", [""], indirect=True)
async def test_for_every_interval_admitted_is_at_most_burst_plus_rate_times_time_over_replicas(
    stubs: list[Any],
) -> None:
    principal = identity_pb2.Principal(tenant="acme", issuer="apikey", subject="k1")
    end, rate, burst = time.monotonic() + 4, 100, 100

    async def caller(stub: Any) -> list[int]:
        times = []
        while time.monotonic() < end:
            request = pb.ReserveRequest(reservation_id=os.urandom(16), principal=principal)
            response = await call(stub.Reserve, request, timeout_s=5)
            if response.verdict == pb.VERDICT_ADMITTED:
                times.append(response.expire_time.ToMicroseconds() - TTL_US)
            await asyncio.sleep(0.02)
        return times

    gathered = await asyncio.gather(*(caller(stubs[index % 4]) for index in range(200)))
    times = sorted(itertools.chain(*gathered))
    level, last_us = 0.0, times[0]
    for now_us in times:
        level = max(0.0, level - rate * (now_us - last_us) / MICRO) + 1
        last_us = now_us
        assert level <= burst + 1e-6
    assert len(times) >= 0.99 * (burst + rate * (times[-1] - times[0]) / MICRO)


@pytest.mark.parametrize("stubs", [POLICY], indirect=True)
async def test_budgets_are_not_exceeded_by_one_token_with_concurrent_streams(
    stubs: list[Any],
) -> None:
    chance = random.Random(7)  # noqa: S311 - only varies the load
    principals = [
        identity_pb2.Principal(tenant=f"t{index % 2}", issuer="apikey", subject=f"k{index}")
        for index in range(10)
    ]
    charged = {"tokens": 0, "t0": 0, "t1": 0}
    most = {"t0": 0, "t1": 0}
    live = {"t0": 0, "t1": 0}
    refused: set[str] = set()

    async def stream(number: int) -> None:
        stub, principal = stubs[number % 4], principals[number % 10]
        for _ in range(12):
            tokens, cost = chance.randint(1, 400), chance.randint(1, 400)
            request = pb.ReserveRequest(
                reservation_id=os.urandom(16), principal=principal, tokens=tokens, cost_micros=cost
            )
            response = await call(stub.Reserve, request, timeout_s=5)
            if response.verdict != pb.VERDICT_ADMITTED:
                refused.add(response.refused_by)
                await asyncio.sleep(0.01)
                continue
            live[principal.tenant] += 1
            most[principal.tenant] = max(most[principal.tenant], live[principal.tenant])
            await asyncio.sleep(chance.random() * 0.02)
            renewal = pb.RenewRequest(reservation_id=request.reservation_id, principal=principal)
            await call(stub.Renew, renewal, timeout_s=5)
            used = chance.randint(0, tokens)
            paid = chance.randint(0, cost)
            settlement = pb.SettleRequest(
                reservation_id=request.reservation_id,
                principal=principal,
                usage=usage_pb2.Usage(output_tokens=used),
                cost_micros=paid,
            )
            live[principal.tenant] -= 1
            charged["tokens"] += used
            charged[principal.tenant] += paid
            # Another replica settles: a reservation is the gateway's, not a limiter's.
            settled = await call(stubs[(number + 1) % 4].Settle, settlement, timeout_s=5)
            assert settled.settled
            assert not settled.tokens_beyond_bound

    await asyncio.gather(*(stream(number) for number in range(100)))
    assert max(most.values()) <= 30
    assert charged["tokens"] <= 60_000
    assert max(charged["t0"], charged["t1"]) <= 40_000
    assert refused <= {"day_of_all", "day_of_tenant", "at_once"}
    assert "day_of_all" in refused or "day_of_tenant" in refused
    for tenant in ("t0", "t1"):
        principal = next(one for one in principals if one.tenant == tenant)
        usage = await call(stubs[0].GetUsage, pb.GetUsageRequest(principal=principal), timeout_s=5)
        used_now = {one.limit.name: one.used for one in usage.usages}
        assert used_now["day_of_all"] == charged["tokens"]
        assert used_now["day_of_tenant"] == charged[tenant]
        assert used_now["at_once"] == 0
