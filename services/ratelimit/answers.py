"""Answers of the limiter as protobuf; on the path of every call, so no message is made twice."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.ratelimit.decision import Decision, Settled, Standing
from services.ratelimit.rule import Rule, Scope, Unit
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb

_KEPT_DESCRIPTIONS = 1_000
_UNITS = {
    Unit.REQUESTS: pb.UNIT_REQUESTS,
    Unit.TOKENS: pb.UNIT_TOKENS,
    Unit.COST: pb.UNIT_COST_MICROS,
    Unit.CONCURRENCY: pb.UNIT_CONCURRENCY,
}
_SCOPES = {
    Scope.PRINCIPAL: pb.SCOPE_PRINCIPAL,
    Scope.TENANT: pb.SCOPE_TENANT,
    Scope.ROLE: pb.SCOPE_ROLE,
    Scope.MODEL: pb.SCOPE_MODEL,
    Scope.GLOBAL: pb.SCOPE_GLOBAL,
}
SOURCES = {"store": pb.SOURCE_STORE, "local": pb.SOURCE_LOCAL, "none": pb.SOURCE_NONE}


def reserve_response(reservation_id: bytes, decision: Decision) -> pb.ReserveResponse:
    """Return the verdict on one reservation."""
    response = pb.ReserveResponse(
        reservation_id=reservation_id,
        verdict=pb.VERDICT_ADMITTED if decision.admitted else pb.VERDICT_REFUSED,
        policy_version=decision.policy_version,
        source=SOURCES[decision.source],
    )
    for standing in decision.standings:
        _describe(response.limits.add(), standing)
    if decision.refused_by:
        response.refused_by = decision.refused_by
    if decision.shadows:
        response.shadow_refused_by.extend(decision.shadows)
    if decision.expire_us:
        end = response.expire_time
        end.seconds, rest = divmod(decision.expire_us, 1_000_000)
        end.nanos = rest * 1000
    if decision.retry_after_us is not None:
        response.retry_after.CopyFrom(_duration(decision.retry_after_us))
    return response


def settle_response(result: Settled) -> pb.SettleResponse:
    """Return what settling did, without how the rules stand."""
    return pb.SettleResponse(
        settled=result.settled,
        tokens_beyond_bound=result.beyond.get(Unit.TOKENS, 0),
        cost_micros_beyond_bound=result.beyond.get(Unit.COST, 0),
    )


def renew_response(expire_us: int) -> pb.RenewResponse:
    """Return the new end of a reservation; nothing for one that is gone."""
    if not expire_us:
        return pb.RenewResponse()
    time = Timestamp()
    time.FromMicroseconds(expire_us)
    return pb.RenewResponse(expire_time=time)


def _fixed(rule: Rule, key: str, window_us: int | None) -> bytes:
    """Return what is the same each time that a rule is described."""
    known = rule.descriptions.get((key, window_us))
    if known is not None:
        return known
    if len(rule.descriptions) >= _KEPT_DESCRIPTIONS:
        rule.descriptions.clear()
    made = rule.descriptions[key, window_us] = pb.LimitState(
        name=rule.name,
        unit=_UNITS[rule.unit],
        limit=rule.burst,
        window=None if window_us is None else _duration(window_us),
        scope=_SCOPES[rule.scope],
        scope_key=key,
        shadow=rule.shadow,
    ).SerializeToString()
    return made


def _describe(state: pb.LimitState, standing: Standing) -> None:
    """Say how a rule stands."""
    state.MergeFromString(_fixed(standing.rule, standing.key, standing.window_us))
    state.remaining = standing.remaining
    reset_us = standing.reset_after_us
    if reset_us is not None:
        reset = state.reset_after
        reset.seconds, rest = divmod(reset_us, 1_000_000)
        reset.nanos = rest * 1000
    if standing.refuses:
        state.refuses = True


def limit_state(standing: Standing) -> pb.LimitState:
    """Return how a rule stands."""
    state = pb.LimitState()
    _describe(state, standing)
    return state


def policy_rule(rule: Rule) -> pb.PolicyRule:
    """Return a rule as operators read it."""
    match = rule.match
    return pb.PolicyRule(
        name=rule.name,
        unit=_UNITS[rule.unit],
        scope=_SCOPES[rule.scope],
        limit=0 if rule.unlimited else rule.burst,
        rate_per_second=0 if rule.unlimited else rule.rate_per_s,
        period=rule.period,
        tenants=match.tenants,
        subjects=match.subjects,
        roles=match.roles,
        models=match.models,
        shadow=rule.shadow,
        unlimited=rule.unlimited,
    )


def _duration(microseconds: int) -> Duration:
    seconds, rest = divmod(microseconds, 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)
