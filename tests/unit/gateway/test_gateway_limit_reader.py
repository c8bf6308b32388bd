"""Usage and policy as callers and administrators read them."""

import asyncio
import json
from typing import Any

import pytest

from services.common.errors import InvalidArgument, Unavailable, WeaverError
from services.common.local import LocalChannel
from services.gateway.admin_servicer import AdminServicer
from services.gateway.limit_reader import LimitReader, Usages, usage_json
from services.gateway.principal import Principal
from services.gateway.servicer import GatewayServicer
from tests.fakes.gateway import KEY, Suite
from weaver.gateway.v1 import admin_service_pb2, gateway_service_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

ALICE = Principal("t", "apikey", "alice", ("user",))


class Limits(ratelimit_service_pb2_grpc.RateLimitServiceServicer):
    """A limiter that tells what it was told, or fails."""

    def __init__(self) -> None:
        self.asked: list[pb.GetUsageRequest] = []
        self.error: Exception | None = None
        self.silent = False

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:  # noqa: N802 - gRPC's name
        self.asked.append(request)
        if self.silent:
            await asyncio.sleep(60)
        if self.error is not None:
            raise self.error
        response = pb.GetUsageResponse(policy_version="v1", source=pb.SOURCE_STORE)
        for name, shadow in (("tokens", False), ("trial", True)):
            usage = response.usages.add(used=70, held=20)
            usage.limit.CopyFrom(
                pb.LimitState(
                    name=name,
                    unit=pb.UNIT_TOKENS,
                    limit=100,
                    remaining=30,
                    scope=pb.SCOPE_TENANT,
                    scope_key="t",
                    shadow=shadow,
                )
            )
            usage.limit.window.seconds = 60
            usage.limit.reset_after.seconds = 42
        slots = response.usages.add(used=1, held=1)
        slots.limit.CopyFrom(pb.LimitState(name="slots", unit=pb.UNIT_CONCURRENCY, limit=2))
        return response

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:  # noqa: N802 - gRPC's name
        response = pb.GetPolicyResponse(version="v1", on_store_failure="local", refused="bad")
        response.rules.add(
            name="a", unit=pb.UNIT_TOKENS, scope=pb.SCOPE_MODEL, limit=5, period="day", models=["m"]
        )
        response.rules.add(name="b", unit=pb.UNIT_REQUESTS, unlimited=True)
        return response


class Context:
    """The part of gRPC's context that the servicers use."""

    peer_name = ""

    def __init__(self) -> None:
        self.initial: list[tuple[str, str]] = []
        self.trailing: list[tuple[str, str]] = []

    def invocation_metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {KEY}")]

    def peer(self) -> str:
        return "ipv4:192.0.2.7:1"

    def set_trailing_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.trailing = metadata

    async def send_initial_metadata(self, metadata: list[tuple[str, str]]) -> None:
        self.initial = metadata


def reader(limits: Limits, timeout_s: float = 1.0) -> LimitReader:
    channel = LocalChannel("gateway")
    ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, channel)  # type: ignore[arg-type]
    return LimitReader(channel, timeout_s=timeout_s)


@pytest.fixture
def limits() -> Limits:
    return Limits()  # type: ignore[abstract] # the others are not called


def admin(suite: Suite, limits: Limits) -> AdminServicer:
    return AdminServicer(
        suite.pipeline,
        reader(limits),
        lambda: {"audit_capture": "none"},
        default_tenant="t",
        api_key_roles=("user",),
        keys=None,
        known_roles=lambda: ("user",),
    )


async def who_am_i(suite: Suite, limits: Limits, **options: Any) -> dict[str, Any]:
    health: Any = None
    servicer = GatewayServicer(suite.pipeline, health, reader(limits, **options), "m")
    request = gateway_service_pb2.WhoAmIRequest(model="m")
    answer = await servicer.WhoAmI(request, Context())
    shown: dict[str, Any] = json.loads(answer.data)
    return shown


async def test_a_caller_sees_each_limit_but_no_shadow(limits: Limits) -> None:
    me = await who_am_i(Suite(), limits)
    assert (me["tenant"], me["usage"]["available"], me["usage"]["source"]) == ("t", True, "store")
    assert me["usage"]["limits"] == [
        {
            "name": "tokens",
            "unit": "tokens",
            "scope": "tenant",
            "scope_key": "t",
            "limit": 100,
            "used": 70,
            "held": 20,
            "remaining": 30,
            "window_s": 60.0,
            "reset_after_s": 42.0,
        },
        {
            "name": "slots",
            "unit": "concurrency",
            "scope": "",
            "scope_key": None,
            "limit": 2,
            "used": 1,
            "held": 1,
            "remaining": 0,
            "window_s": None,
            "reset_after_s": None,
        },
    ]
    assert limits.asked[0].model == "m"


@pytest.mark.parametrize("fault", [Unavailable("gone"), RuntimeError("odd"), None])
async def test_a_caller_is_known_while_the_limits_cannot_be_read(
    limits: Limits, fault: Exception | None
) -> None:
    """Never a 500, never a hang: `None` is a limiter that does not answer."""
    limits.error, limits.silent = fault, fault is None
    me = await who_am_i(Suite(), limits, timeout_s=0.05)
    assert (me["tenant"], me["usage"]["available"], me["usage"]["limits"]) == ("t", False, [])


def test_a_limiter_that_lets_everything_pass_knows_no_usage() -> None:
    assert usage_json(Usages("v1", "none", ()), everything=False)["available"] is False


async def test_a_wrong_model_is_named(limits: Limits) -> None:
    limits.error = InvalidArgument.of_field("model", "must be at most 256 characters.")
    with pytest.raises(InvalidArgument, match="model"):
        await reader(limits).usage(ALICE, "m" * 300)


async def test_administrators_see_shadow_rules_and_it_is_recorded(limits: Limits) -> None:
    suite, context = Suite(roles=("admin",)), Context()
    servicer = admin(suite, limits)
    request = admin_service_pb2.GetUsageRequest(subject="alice", model="m")
    shown = json.loads((await servicer.GetUsage(request, context)).data)
    assert (shown["tenant"], shown["issuer"], shown["subject"]) == ("t", "apikey", "alice")
    assert (shown["roles"], shown["model"]) == (["user"], "m")
    assert [(one["name"], one["shadow"]) for one in shown["limits"]][:2] == [
        ("tokens", False),
        ("trial", True),
    ]
    assert [event.surface for event in suite.log.events] == ["admin.usage"] * 2
    assert dict(context.initial)["x-weaver-record"] == "log 1"
    assert list(limits.asked[0].principal.roles) == ["user"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (admin_service_pb2.GetUsageRequest(), "subject"),
        (admin_service_pb2.GetUsageRequest(subject="s", tenant="x" * 257), "tenant"),
        (admin_service_pb2.GetUsageRequest(subject="s", roles=["r"] * 33), "roles"),
    ],
)
async def test_a_wrong_field_is_named(
    limits: Limits, request_: admin_service_pb2.GetUsageRequest, field: str
) -> None:
    servicer = admin(Suite(roles=("admin",)), limits)
    with pytest.raises(InvalidArgument) as caught:
        await servicer.GetUsage(request_, Context())
    assert caught.value.violations[0].field == field


async def test_a_token_s_subject_has_no_roles_of_api_keys(limits: Limits) -> None:
    request = admin_service_pb2.GetUsageRequest(subject="a", issuer="idp", roles=["b", "a", "b"])
    await admin(Suite(roles=("admin",)), limits).GetUsage(request, Context())
    request = admin_service_pb2.GetUsageRequest(subject="a", issuer="idp")
    await admin(Suite(roles=("admin",)), limits).GetUsage(request, Context())
    assert [list(one.principal.roles) for one in limits.asked] == [["a", "b"], []]


async def test_policies_show_the_rules_and_why_a_file_was_refused(limits: Limits) -> None:
    request, context = admin_service_pb2.GetPoliciesRequest(), Context()
    answer = await admin(Suite(roles=("admin",)), limits).GetPolicies(request, context)
    shown = json.loads(answer.data)
    assert shown["gateway"] == {"audit_capture": "none"}
    assert (shown["limits"]["version"], shown["limits"]["file_refused"]) == ("v1", "bad")
    first, second = shown["limits"]["rules"]
    assert (first["limit"], first["period"], first["match"]) == (5, "day", {"models": ["m"]})
    assert (second["limit"], second["unlimited"], second["match"]) == (None, True, {})


@pytest.mark.parametrize("method", ["GetUsage", "GetPolicies", "CreateApiKey"])
async def test_users_are_refused(limits: Limits, method: str) -> None:
    suite = Suite()
    with pytest.raises(WeaverError) as caught:
        await getattr(admin(suite, limits), method)(
            admin_service_pb2.GetUsageRequest(subject="alice"), Context()
        )
    assert caught.value.reason == "PERMISSION_DENIED"
    assert limits.asked == []
