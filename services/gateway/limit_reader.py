"""What the limiter tells of usage and of its policy; nothing is charged here."""

from typing import Any

import msgspec

from services.common.channel import call
from services.common.errors import Unavailable, WeaverError
from services.gateway.audit_client import principal_message
from services.gateway.limit_messages import (
    SCOPES,
    UNITS,
    limit_state,
    limits_of,
    source_name,
)
from services.gateway.ports import LimitState
from services.gateway.principal import Principal
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc


class LimitUsage(msgspec.Struct, frozen=True):
    """What was used of one limit, in its unit; `held` is the part of live reservations."""

    state: LimitState
    used: int
    held: int


class Usages(msgspec.Struct, frozen=True):
    """What a principal has used of each limit."""

    policy_version: str
    source: str
    limits: tuple[LimitUsage, ...]


class LimitReader:
    """Reads usage and policy.

    Args:
        channel: to the ratelimit service.
        timeout_s: how long an answer may take.
    """

    def __init__(self, channel: Any, *, timeout_s: float) -> None:  # noqa: ANN401 - gRPC's or local
        """See the class."""
        self._stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self._timeout_s = timeout_s

    async def usage(self, principal: Principal, model: str = "") -> Usages:
        """Return what a principal has used of each limit that applies to it.

        Args:
            principal: who.
            model: for rules per model; "" for every rule that is not one model's.

        Raises:
            Unavailable: the limiter cannot be reached, or its policy is to deny.
            InvalidArgument: the limiter cannot know such a principal or model.
        """
        request = pb.GetUsageRequest(
            principal=principal_message(principal), model=model, own_limits=limits_of(principal)
        )
        response = await self._ask(self._stub.GetUsage, request)
        return Usages(
            response.policy_version,
            source_name(response.source),
            tuple(
                LimitUsage(limit_state(usage.limit), usage.used, usage.held)
                for usage in response.usages
            ),
        )

    async def policy(self) -> dict[str, Any]:
        """Return the policy in force, as administrators read it.

        Raises:
            Unavailable: the limiter cannot be reached.
        """
        response = await self._ask(self._stub.GetPolicy, pb.GetPolicyRequest())
        return {
            "version": response.version,
            "on_store_failure": response.on_store_failure,
            "file_refused": response.refused or None,
            "envoy_rules": response.envoy_rules,
            "rules": [_rule(rule) for rule in response.rules],
        }

    async def _ask(self, method: Any, request: Any) -> Any:  # noqa: ANN401 - a stub's
        try:
            return await call(method, request, timeout_s=self._timeout_s)
        except Unavailable:
            raise
        except WeaverError as error:
            if error.violations:
                raise
            msg = "The limits cannot be read now. Try again."
            raise Unavailable(msg, reason="RATELIMIT_UNAVAILABLE", retry_after_s=1.0) from error


def usage_json(usages: Usages, *, everything: bool) -> dict[str, Any]:
    """Return usage as it is shown.

    Args:
        usages: what was used.
        everything: whether rules in shadow mode are shown too.
    """
    return {
        "available": usages.source != "none",
        "source": usages.source,
        "policy_version": usages.policy_version,
        "limits": [
            _limit(usage, everything=everything)
            for usage in usages.limits
            if everything or not usage.state.shadow
        ],
    }


def unavailable_json(error: WeaverError) -> dict[str, Any]:
    """Return what stands in the place of usage that cannot be read."""
    return {"available": False, "reason": error.reason, "message": error.message, "limits": []}


def _limit(usage: LimitUsage, *, everything: bool) -> dict[str, Any]:
    state = usage.state
    timed = state.window_s > 0
    shown: dict[str, Any] = {
        "name": state.name,
        "unit": state.unit,
        "scope": state.scope,
        "scope_key": state.scope_key or None,
        "limit": state.limit,
        "used": usage.used,
        "held": usage.held,
        "remaining": state.remaining,
        "window_s": round(state.window_s, 3) if timed else None,
        "reset_after_s": round(state.reset_after_s, 3) if timed else None,
    }
    if everything:
        shown["shadow"] = state.shadow
    return shown


def _rule(rule: pb.PolicyRule) -> dict[str, Any]:
    match = {
        name: list(patterns)
        for name, patterns in (
            ("tenants", rule.tenants),
            ("subjects", rule.subjects),
            ("roles", rule.roles),
            ("models", rule.models),
        )
        if patterns
    }
    return {
        "name": rule.name,
        "unit": UNITS.get(rule.unit, ""),
        "scope": SCOPES.get(rule.scope, ""),
        "limit": None if rule.unlimited else rule.limit,
        "rate_per_s": rule.rate_per_second or None,
        "period": rule.period or None,
        "match": match,
        "shadow": rule.shadow,
        "unlimited": rule.unlimited,
    }
