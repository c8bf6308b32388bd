"""The limiter's messages in the gateway's own words."""

from functools import lru_cache
from typing import Final

from services.gateway.events import LimitDecision
from services.gateway.ports import Admission, LimitState
from services.gateway.principal import OwnLimits, Principal
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb

_VERDICTS: Final = {pb.VERDICT_ADMITTED: "admitted", pb.VERDICT_REFUSED: "refused"}
_SOURCES: Final = {pb.SOURCE_STORE: "store", pb.SOURCE_LOCAL: "local", pb.SOURCE_NONE: "none"}
UNITS: Final = {
    pb.UNIT_REQUESTS: "requests",
    pb.UNIT_TOKENS: "tokens",
    pb.UNIT_COST_MICROS: "cost_micros",
    pb.UNIT_CONCURRENCY: "concurrency",
}
SCOPES: Final = {
    pb.SCOPE_PRINCIPAL: "principal",
    pb.SCOPE_TENANT: "tenant",
    pb.SCOPE_ROLE: "role",
    pb.SCOPE_MODEL: "model",
    pb.SCOPE_GLOBAL: "global",
}


@lru_cache(maxsize=10_000)
def _own_limits(limits: OwnLimits) -> pb.OwnLimits:
    """Return limits on the wire; shared, so never to be changed."""
    return pb.OwnLimits(
        requests_per_second=limits.requests_per_second,
        burst=limits.burst,
        tokens_per_minute=limits.tokens_per_minute,
        tokens_per_day=limits.tokens_per_day,
        cost_micros_per_day=limits.cost_micros_per_day,
        cost_micros_per_month=limits.cost_micros_per_month,
        concurrency=limits.concurrency,
    )


def limits_of(principal: Principal) -> pb.OwnLimits | None:
    """Return the limits that a principal brings along; None for those of everybody."""
    grant = principal.grant
    return None if grant is None or grant.limits is None else _own_limits(grant.limits)


def admission(response: pb.ReserveResponse, model: str) -> Admission:
    """Return a verdict for a reservation that was asked for with this model."""
    return Admission(
        response.reservation_id,
        response.verdict == pb.VERDICT_ADMITTED,
        LimitDecision(
            _VERDICTS.get(response.verdict, ""),
            response.refused_by,
            response.policy_version,
            source_name(response.source),
        ),
        tuple(map(limit_state, response.limits)),
        response.retry_after.seconds + response.retry_after.nanos / 1e9
        if response.HasField("retry_after")
        else None,
        model,
    )


def limit_state(limit: pb.LimitState) -> LimitState:
    """Return how one rule stands, in the gateway's words."""
    reset, window = limit.reset_after, limit.window
    return LimitState(
        limit.name,
        UNITS.get(limit.unit, ""),
        limit.limit,
        limit.remaining,
        reset.seconds + reset.nanos / 1e9,
        window.seconds + window.nanos / 1e9,
        SCOPES.get(limit.scope, ""),
        limit.scope_key,
        limit.shadow,
        limit.refuses,
    )


def source_name(source: "pb.Source.ValueType") -> str:
    """Return where a decision was made, as records say it."""
    return _SOURCES.get(source, "")
