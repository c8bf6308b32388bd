"""A policy file and Envoy's protocol over a real channel, in front of a real Valkey."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from services.common.channel import call, open_channel
from services.common.component import Component
from services.common.errors import InvalidArgument, Unavailable
from services.common.server import Listener, start_server
from services.common.settings import SettingsError, load
from services.ratelimit import envoy_messages as envoy
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build
from tests.fakes.valkey import Valkey
from weaver.common.v1 import identity_pb2, usage_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

POLICY = """
version: 1
rules:
  - {name: requests, limit: 2, per: minute, match: {roles: [slow]}}
  - {name: requests, limit: 1000, per: second}
  - {name: house_day, scope: tenant, unit: tokens, limit: 100, per: day}
  - {name: team, scope: role, unit: cost, limit: 0.0005, per: month, match: {roles: [dev]}}
  - {name: at_once, unit: concurrency, limit: 3}
  - {name: quiet, unit: tokens, limit: 10, per: hour, shadow: true}
envoy:
  - {name: boss, domain: edge, entries: [{key: user, value: boss}], unlimited: true}
  - {name: user, domain: edge, entries: [{key: user}], limit: 2, per: hour, burst: 3}
  - {name: quiet_path, domain: edge, entries: [{key: path}], limit: 1, per: day, shadow: true}
"""


class Rig:
    """A limiter with a policy file, and channels of two peers."""

    def __init__(self, component: Component, file: Path, gateway: Any, proxy: Any) -> None:
        self.component = component
        self.file = file
        self.gateway = gateway
        self.proxy = proxy
        self.stub = rpc.RateLimitServiceStub(gateway)

    async def reserve(self, principal: identity_pb2.Principal, **fields: Any) -> Any:
        request = pb.ReserveRequest(reservation_id=os.urandom(16), principal=principal, **fields)
        return await call(self.stub.Reserve, request, timeout_s=5)

    async def ask(
        self, *entries: tuple[str, str], hits: int = 0, domain: str = "edge", peer: Any = None
    ) -> Any:
        request = envoy.RateLimitRequest(domain=domain, hits_addend=hits)
        for key, value in entries:
            request.descriptors.add().entries.add(key=key, value=value)
        method = (peer or self.proxy).unary_unary(
            f"/{envoy.SERVICE}/ShouldRateLimit",
            request_serializer=envoy.RateLimitRequest.SerializeToString,
            response_deserializer=envoy.RateLimitResponse.FromString,
        )
        return await call(method, request, timeout_s=5)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
async def rig(valkey: Valkey, tmp_path: Path) -> AsyncIterator[Rig]:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY)
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        mtls_enabled=False,
        policy_file=file,
        audit_address="",
        store_timeout_ms=1000,
    )
    async with AsyncExitStack() as stack:
        component = await build(settings, stack)
        handle = await start_server(
            component,
            settings,
            stack,
            [Listener("127.0.0.1:0")],
            allowed_clients=settings.allowed_clients,
        )
        channels = []
        for own in ("gateway", "envoy"):
            channel = open_channel(handle.addresses[0], settings, own=own, peer="ratelimit")
            stack.push_async_callback(channel.close)
            channels.append(channel)
        yield Rig(component, file, *channels)


def principal(*roles: str) -> identity_pb2.Principal:
    tenant, subject = os.urandom(8).hex(), os.urandom(8).hex()
    return identity_pb2.Principal(tenant=tenant, issuer="apikey", subject=subject, roles=roles)


async def test_an_answer_says_whose_limit_each_rule_is(rig: Rig) -> None:
    who = principal("dev")
    response = await rig.reserve(who, tokens=40, cost_micros=100)
    assert response.verdict == pb.VERDICT_ADMITTED
    assert response.HasField("expire_time")
    states = {state.name: state for state in response.limits}
    house, team = states["house_day"], states["team"]
    assert (house.scope, house.scope_key) == (pb.SCOPE_TENANT, who.tenant)
    assert (house.limit, house.remaining, house.window.seconds) == (100, 60, 86_400)
    assert 0 < house.reset_after.seconds <= 86_400
    assert (team.scope, team.scope_key, team.unit) == (pb.SCOPE_ROLE, "dev", pb.UNIT_COST_MICROS)
    assert (team.limit, team.remaining) == (500, 400)
    slots = states["at_once"]
    assert (slots.unit, slots.limit, slots.remaining) == (pb.UNIT_CONCURRENCY, 3, 2)
    assert not slots.HasField("reset_after")
    assert not slots.HasField("window")
    assert (states["quiet"].shadow, list(response.shadow_refused_by)) == (True, ["quiet"])


async def test_a_refusal_marks_the_rule_that_refused(rig: Rig) -> None:
    who = principal()
    response = await rig.reserve(who, tokens=101)
    assert (response.verdict, response.refused_by) == (pb.VERDICT_REFUSED, "house_day")
    assert [state.name for state in response.limits if state.refuses] == ["house_day"]
    assert not response.HasField("expire_time")
    usage = await call(rig.stub.GetUsage, pb.GetUsageRequest(principal=who), timeout_s=5)
    assert {one.used for one in usage.usages} == {0}


async def test_the_first_rule_of_a_name_that_matches_applies(rig: Rig) -> None:
    slow = principal("slow")
    verdicts = [(await rig.reserve(slow)).verdict for _ in range(3)]
    assert verdicts == [pb.VERDICT_ADMITTED] * 2 + [pb.VERDICT_REFUSED]


async def test_usage_tells_what_is_held_and_settling_what_was_beyond(rig: Rig) -> None:
    who = principal("dev")
    reserved = await rig.reserve(who, tokens=40, cost_micros=100)
    usage = await call(rig.stub.GetUsage, pb.GetUsageRequest(principal=who), timeout_s=5)
    house = next(one for one in usage.usages if one.limit.name == "house_day")
    assert (house.used, house.held) == (40, 40)
    settlement = pb.SettleRequest(
        reservation_id=reserved.reservation_id,
        principal=who,
        usage=usage_pb2.Usage(input_tokens=30, output_tokens=25),
        cost_micros=107,
    )
    settled = await call(rig.stub.Settle, settlement, timeout_s=5)
    assert settled.settled
    assert (settled.tokens_beyond_bound, settled.cost_micros_beyond_bound) == (15, 7)
    beyond = rig.component.metrics.get_sample_value
    assert beyond("ratelimit_used_beyond_bound_total", {"unit": "tokens"}) == 15


async def test_renewals_in_a_batch_say_which_reservation_is_gone(rig: Rig) -> None:
    who = principal()
    reserved = await rig.reserve(who)
    ids = [reserved.reservation_id, bytes(16)]
    renewals = [pb.RenewRequest(reservation_id=id_, principal=who) for id_ in ids]
    batch = pb.BatchRenewRequest(requests=renewals)
    responses = (await call(rig.stub.BatchRenew, batch, timeout_s=5)).responses
    assert [one.HasField("expire_time") for one in responses] == [True, False]


async def test_a_changed_file_decides_within_seconds_and_a_bad_one_does_not(rig: Rig) -> None:
    who = principal()
    old = (await rig.reserve(who)).policy_version
    rig.file.write_text(POLICY.replace("limit: 3}", "limit: 1}"))
    async with asyncio.timeout(5):
        while (response := await rig.reserve(who)).policy_version == old:
            await asyncio.sleep(0.1)
    assert response.refused_by == "at_once"
    rig.file.write_text("version: 1\nrules: [{}]")
    async with asyncio.timeout(5):
        while rig.component.health.snapshot()["policy"][0]:
            await asyncio.sleep(0.1)
    assert (await rig.reserve(who)).policy_version == response.policy_version
    assert rig.component.metrics.get_sample_value("ratelimit_policy_valid") == 0
    told = await call(rig.stub.GetPolicy, pb.GetPolicyRequest(), timeout_s=5)
    assert told.version == response.policy_version
    assert "rules[0]" in told.refused


async def test_the_policy_is_told_rule_by_rule(rig: Rig) -> None:
    told = await call(rig.stub.GetPolicy, pb.GetPolicyRequest(), timeout_s=5)
    assert (told.refused, told.on_store_failure) == ("", "local")
    assert told.version == (await rig.reserve(principal())).policy_version
    rules = {rule.name: rule for rule in told.rules}
    assert (rules["quiet"].shadow, rules["house_day"].period) == (True, "day")
    assert rules["house_day"].scope == pb.SCOPE_TENANT
    assert rules["requests"].rate_per_second > 0
    assert told.envoy_rules > 0


async def test_a_bad_file_stops_the_start_with_the_variables_name(
    valkey: Valkey, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\nrules: [{name: a, limit: 1}]")
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        policy_file=tmp_path / "policy.yaml",
        audit_address="",
    )
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsError, match=r"WEAVER_RATELIMIT_POLICY_FILE.*rules\[0\]\.per"):
            await build(settings, stack)


async def test_envoy_is_told_each_descriptors_status_and_headers(rig: Rig) -> None:
    who = os.urandom(8).hex()
    first = await rig.ask(("user", who), ("other", "x"))
    assert first.overall_code == envoy.OK
    status, unknown = first.statuses
    assert (status.code, status.limit_remaining) == (envoy.OK, 2)
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (2, 3)
    assert 1799 <= status.duration_until_reset.seconds <= 1800
    assert (unknown.code, unknown.HasField("current_limit")) == (envoy.OK, False)
    headers = {header.key: header.value for header in first.response_headers_to_add}
    assert headers == {
        "ratelimit-policy": '"user";q=3;w=5400',
        "ratelimit": '"user";r=2;t=1800',
    }
    last = await rig.ask(("user", who), hits=3)
    assert last.overall_code == last.statuses[0].code == envoy.OVER_LIMIT
    headers = {header.key: header.value for header in last.response_headers_to_add}
    assert int(headers["retry-after"]) in {1799, 1800}
    # What was refused took nothing: two are left.
    assert (await rig.ask(("user", who), hits=2)).overall_code == envoy.OK
    assert (await rig.ask(("user", who))).overall_code == envoy.OVER_LIMIT


async def test_envoy_is_told_once_when_to_come_back_however_many_refuse(rig: Rig) -> None:
    one, two = os.urandom(8).hex(), os.urandom(8).hex()
    await rig.ask(("user", one), hits=3)
    await rig.ask(("user", two), hits=2)
    answer = await rig.ask(("user", two), ("user", one), hits=3)
    assert [status.code for status in answer.statuses] == [envoy.OVER_LIMIT] * 2
    told = [one.value for one in answer.response_headers_to_add if one.key == "retry-after"]
    assert len(told) == 1
    assert int(told[0]) in {5399, 5400}


async def test_envoy_passes_what_is_unlimited_in_shadow_or_of_another_domain(rig: Rig) -> None:
    for _ in range(5):
        response = await rig.ask(("user", "boss"), ("path", "/x"))
        assert response.overall_code == envoy.OK
        assert not response.response_headers_to_add, "nobody is to slow down for a trial"
    assert (await rig.ask(("user", "u"), hits=9, domain="other")).overall_code == envoy.OK
    counted = rig.component.metrics.get_sample_value(
        "ratelimit_shadow_refusals_total", {"rule": "quiet_path"}
    )
    assert counted == 4


async def test_a_descriptors_own_addend_counts_more_and_zero_only_looks(rig: Rig) -> None:
    request = envoy.RateLimitRequest(domain="edge", hits_addend=2)
    descriptor = request.descriptors.add()
    descriptor.entries.add(key="user", value=os.urandom(8).hex())
    descriptor.hits_addend.value = 0
    method = rig.proxy.unary_unary(
        f"/{envoy.SERVICE}/ShouldRateLimit",
        request_serializer=envoy.RateLimitRequest.SerializeToString,
        response_deserializer=envoy.RateLimitResponse.FromString,
    )
    for _ in range(5):
        response: Any = await call(method, request, timeout_s=5)
        assert response.statuses[0].limit_remaining == 3


async def test_malformed_requests_of_envoy_name_the_field(rig: Rig) -> None:
    for field, domain, entries in [
        ("domain", "", [("a", "b")]),
        ("descriptors", "edge", []),
        ("descriptors", "edge", [("a", "b")] * 101),
    ]:
        with pytest.raises(InvalidArgument) as caught:
            await rig.ask(*entries, domain=domain)
        assert caught.value.violations[0].field == field


async def test_each_peer_may_ask_one_service_alone(rig: Rig) -> None:
    with pytest.raises(Unavailable, match="does not accept calls from this one"):
        await rig.ask(("user", "u"), peer=rig.gateway)
    stub = rpc.RateLimitServiceStub(cast("grpc.aio.Channel", rig.proxy))
    with pytest.raises(Unavailable, match="does not accept calls from this one"):
        await call(stub.Peek, pb.PeekRequest(principal=principal()), timeout_s=5)
