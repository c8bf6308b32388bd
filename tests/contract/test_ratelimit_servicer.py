"""RateLimitService over a real channel and over the local one, in front of a real Valkey."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from services.common.channel import call, open_channel
from services.common.component import Component
from services.common.errors import InvalidArgument, NotFound
from services.common.local import LocalChannel
from services.common.server import Listener, start_server
from services.common.settings import load
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build
from tests.fakes.valkey import Valkey
from weaver.common.v1 import identity_pb2, usage_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

Stub = Any  # the generated one, whose methods are awaitable on both channels


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def settings(valkey: Valkey) -> RatelimitSettings:
    return load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        mtls_enabled=False,
        rps=0.01,
        burst=3,
        tokens_per_minute=600,
        audit_address="",
        store_timeout_ms=1000,
    )


@pytest.fixture
async def component(settings: RatelimitSettings) -> AsyncIterator[Component]:
    async with AsyncExitStack() as stack:
        yield await build(settings, stack)


@pytest.fixture(params=["grpc", "local"])
async def stub(
    request: pytest.FixtureRequest, component: Component, settings: RatelimitSettings
) -> AsyncIterator[Stub]:
    async with AsyncExitStack() as stack:
        if request.param == "local":
            channel = LocalChannel("gateway")
            component.register(channel)
            yield rpc.RateLimitServiceStub(cast("Any", channel))
            return
        listeners = [Listener("127.0.0.1:0")]
        handle = await start_server(
            component, settings, stack, listeners, allowed_clients=settings.allowed_clients
        )
        remote = open_channel(handle.addresses[0], settings, own="gateway", peer="ratelimit")
        stack.push_async_callback(remote.close)
        yield rpc.RateLimitServiceStub(remote)


@pytest.fixture
def principal() -> identity_pb2.Principal:
    return identity_pb2.Principal(tenant="acme", issuer="apikey", subject=os.urandom(8).hex())


def reserve(principal: identity_pb2.Principal, *, tokens: int = 0) -> pb.ReserveRequest:
    return pb.ReserveRequest(reservation_id=os.urandom(16), principal=principal, tokens=tokens)


def limit(response: pb.ReserveResponse | pb.SettleResponse, name: str) -> pb.LimitState:
    return next(state for state in response.limits if state.name == name)


async def test_reserve_answers_with_the_state_of_every_rule(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    request = reserve(principal, tokens=500)
    response = await call(stub.Reserve, request, timeout_s=5)
    assert response.reservation_id == request.reservation_id
    assert (response.verdict, response.source) == (pb.VERDICT_ADMITTED, pb.SOURCE_STORE)
    assert not response.HasField("retry_after")
    assert [state.name for state in response.limits] == ["tokens_per_minute", "requests"]
    requests, tokens = limit(response, "requests"), limit(response, "tokens_per_minute")
    assert (requests.unit, requests.limit, requests.remaining) == (pb.UNIT_REQUESTS, 3, 2)
    assert (requests.window.seconds, requests.reset_after.seconds) == (300, 100)
    assert (tokens.unit, tokens.limit, tokens.remaining) == (pb.UNIT_TOKENS, 600, 100)
    assert (tokens.window.seconds, tokens.reset_after.seconds) == (60, 50)


async def test_a_refusal_is_an_answer_with_rule_and_time(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    batch = pb.BatchReserveRequest(requests=[reserve(principal) for _ in range(4)])
    response = await call(stub.BatchReserve, batch, timeout_s=5)
    assert [one.verdict for one in response.responses] == [pb.VERDICT_ADMITTED] * 3 + [
        pb.VERDICT_REFUSED
    ]
    assert [one.reservation_id for one in response.responses] == [
        one.reservation_id for one in batch.requests
    ]
    refused = response.responses[3]
    assert refused.refused_by == "requests"
    assert 99 <= refused.retry_after.seconds <= 100
    assert refused.policy_version


async def test_a_bound_that_no_limit_allows_is_refused_without_a_time(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    response = await call(stub.Reserve, reserve(principal, tokens=2**62), timeout_s=5)
    assert response.verdict == pb.VERDICT_REFUSED
    assert not response.HasField("retry_after")


async def test_settling_returns_the_difference_once(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    request = reserve(principal, tokens=500)
    await call(stub.Reserve, request, timeout_s=5)
    settlement = pb.SettleRequest(
        reservation_id=request.reservation_id,
        principal=principal,
        usage=usage_pb2.Usage(input_tokens=20, output_tokens=30),
    )
    batch = pb.BatchSettleRequest(requests=[settlement, settlement])
    first, second = (await call(stub.BatchSettle, batch, timeout_s=5)).responses
    assert (first.settled, second.settled) == (True, False)
    assert not first.limits
    third = await call(stub.Settle, settlement, timeout_s=5)
    assert not third.settled
    assert limit(third, "tokens_per_minute").remaining == 550


async def test_what_rides_along_is_settled_before_anything_is_reserved(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    first = reserve(principal, tokens=500)
    await call(stub.Reserve, first, timeout_s=5)
    settlement = pb.SettleRequest(reservation_id=first.reservation_id, principal=principal)
    batch = pb.BatchReserveRequest(
        requests=[reserve(principal, tokens=600)], settlements=[settlement, settlement]
    )
    response = await call(stub.BatchReserve, batch, timeout_s=5)
    assert [one.settled for one in response.settled] == [True, False]
    assert [one.verdict for one in response.responses] == [pb.VERDICT_ADMITTED]


async def test_a_settlement_that_rides_along_is_checked(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    bad = pb.BatchReserveRequest(
        requests=[reserve(principal)],
        settlements=[pb.SettleRequest(reservation_id=b"short", principal=principal)],
    )
    with pytest.raises(InvalidArgument) as caught:
        await call(stub.BatchReserve, bad, timeout_s=5)
    assert caught.value.violations[0].field == "settlements[0].reservation_id"


async def test_settling_without_usage_frees_the_bound_and_keeps_the_request_charged(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    request = reserve(principal, tokens=500)
    await call(stub.Reserve, request, timeout_s=5)
    settlement = pb.SettleRequest(reservation_id=request.reservation_id, principal=principal)
    response = await call(stub.Settle, settlement, timeout_s=5)
    assert limit(response, "tokens_per_minute").remaining == 600
    assert limit(response, "requests").remaining == 2


async def test_renewing_returns_the_new_end(stub: Stub, principal: identity_pb2.Principal) -> None:
    request = reserve(principal)
    await call(stub.Reserve, request, timeout_s=5)
    renewal = pb.RenewRequest(
        reservation_id=request.reservation_id,
        principal=principal,
        time_to_live=Duration(seconds=120),
    )
    response = await call(stub.Renew, renewal, timeout_s=5)
    assert response.expire_time.seconds > 0
    renewal.reservation_id = bytes(16)
    with pytest.raises(NotFound) as caught:
        await call(stub.Renew, renewal, timeout_s=5)
    assert caught.value.reason == "RESERVATION_NOT_FOUND"


async def test_peeking_reads_without_charging(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    for _ in range(5):
        response = await call(stub.Peek, pb.PeekRequest(principal=principal), timeout_s=5)
    assert {state.name: state.remaining for state in response.limits} == {
        "requests": 3,
        "tokens_per_minute": 600,
    }
    assert response.source == pb.SOURCE_STORE


async def test_usage_shows_what_is_charged_and_held_and_debt(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    request = reserve(principal, tokens=500)
    await call(stub.Reserve, request, timeout_s=5)
    response = await call(stub.GetUsage, pb.GetUsageRequest(principal=principal), timeout_s=5)
    assert {one.limit.name: one.used for one in response.usages} == {
        "requests": 1,
        "tokens_per_minute": 500,
    }
    settlement = pb.SettleRequest(
        reservation_id=request.reservation_id,
        principal=principal,
        usage=usage_pb2.Usage(output_tokens=900),
    )
    await call(stub.Settle, settlement, timeout_s=5)
    response = await call(stub.GetUsage, pb.GetUsageRequest(principal=principal), timeout_s=5)
    assert response.usages[0].limit.remaining == 0
    assert 890 <= response.usages[0].used <= 900
    assert (response.source, bool(response.policy_version)) == (pb.SOURCE_STORE, True)


async def test_malformed_requests_name_the_field(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    nobody = identity_pb2.Principal(tenant="acme")
    long_life = Duration(seconds=3601)
    cases = {
        "reservation_id": pb.ReserveRequest(reservation_id=b"short", principal=principal),
        "principal.tenant": pb.ReserveRequest(reservation_id=bytes(16)),
        "principal.subject": pb.ReserveRequest(reservation_id=bytes(16), principal=nobody),
        "tokens": pb.ReserveRequest(reservation_id=bytes(16), principal=principal, tokens=-1),
        "time_to_live": pb.ReserveRequest(
            reservation_id=bytes(16), principal=principal, time_to_live=long_life
        ),
    }
    for field, request in cases.items():
        with pytest.raises(InvalidArgument) as caught:
            await call(stub.Reserve, request, timeout_s=5)
        assert [violation.field for violation in caught.value.violations] == [field]
        batch = pb.BatchReserveRequest(requests=[reserve(principal), request])
        with pytest.raises(InvalidArgument) as caught:
            await call(stub.BatchReserve, batch, timeout_s=5)
        assert [item.field for item in caught.value.violations] == [f"requests[1].{field}"]


async def test_a_batch_over_its_size_is_refused(
    stub: Stub, principal: identity_pb2.Principal
) -> None:
    batch = pb.BatchReserveRequest(requests=[reserve(principal)] * 1001)
    with pytest.raises(InvalidArgument) as caught:
        await call(stub.BatchReserve, batch, timeout_s=5)
    assert caught.value.violations[0].field == "requests"


def value(component: Component, name: str, **labels: str) -> float | None:
    return component.metrics.get_sample_value(name, labels)


async def test_decisions_and_the_store_are_counted(
    component: Component, stub: Stub, principal: identity_pb2.Principal
) -> None:
    for _ in range(4):
        await call(stub.Reserve, reserve(principal), timeout_s=5)
    admitted = {"verdict": "admitted", "rule": "", "source": "store"}
    refused = {"verdict": "refused", "rule": "requests", "source": "store"}
    assert value(component, "ratelimit_decisions_total", **admitted) == 3
    assert value(component, "ratelimit_decisions_total", **refused) == 1
    assert value(component, "ratelimit_store_up") == 1
    assert value(component, "ratelimit_store_seconds_count") == 4
    assert component.health.snapshot() == {"": (True, ""), "store": (True, "")}
