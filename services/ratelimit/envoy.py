"""Envoy's rate limit protocol to the limiter and back.

Each descriptor is decided by itself, by the first rule of the policy that fits it; one that no rule
fits passes. A limit that Envoy sends along is not believed: limits stand in the policy.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final

import grpc

from services.common.errors import InvalidArgument
from services.ratelimit import envoy_messages as messages
from services.ratelimit.decision import Decision
from services.ratelimit.descriptor import DescriptorRule
from services.ratelimit.limiter import Limiter
from services.ratelimit.peers import allowed_peer
from services.ratelimit.plan import Charge
from services.ratelimit.policy import Group, account_of
from services.ratelimit.rule import MICRO, PERIODS_S, RuleSet

MAX_DESCRIPTORS: Final = 100
MAX_ENTRIES: Final = 20


class EnvoyServicer:
    """Serves `envoy.service.ratelimit.v3.RateLimitService`.

    Args:
        limiter: decides.
        clients: who may call, by the name in their certificate.
    """

    def __init__(self, limiter: Limiter, clients: Collection[str]) -> None:
        """See the class."""
        self._limiter = limiter
        self._clients = frozenset(clients)

    def register(self, server: Any) -> None:
        """Add the service to a `grpc.aio.Server` or a local channel."""
        handlers = {
            "ShouldRateLimit": grpc.unary_unary_rpc_method_handler(
                self.ShouldRateLimit,
                request_deserializer=messages.RateLimitRequest.FromString,
                response_serializer=messages.RateLimitResponse.SerializeToString,
            )
        }
        generic = grpc.method_handlers_generic_handler(messages.SERVICE, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(messages.SERVICE, handlers)

    async def ShouldRateLimit(self, request: Any, context: Any) -> Any:
        """Decide on each descriptor of a request."""
        allowed_peer(context, self._clients)
        _check(request)
        found: list[DescriptorRule | None] = []
        charges: list[Charge] = []
        for descriptor in request.descriptors:
            entries = [(entry.key, entry.value) for entry in descriptor.entries]
            rule = self._rule(request.domain, entries)
            found.append(rule)
            if rule is not None:
                charges.append(_charge(rule, entries, _hits(request, descriptor)))
        decisions = iter(await self._limiter.charge(charges) if charges else ())
        response = messages.RateLimitResponse(overall_code=messages.OK)
        waits: list[int | None] = []
        for rule in found:
            status = response.statuses.add(code=messages.OK)
            if rule is not None:
                decision = next(decisions)
                _say(response, status, rule, decision)
                if not decision.admitted:
                    waits.append(decision.retry_after_us)
        known = [wait for wait in waits if wait is not None]
        if known and len(known) == len(waits):
            # One header for all that refuse: a second one would make the answer malformed.
            _header(response, "retry-after", str(max(1, -(-max(known) // MICRO))))
        return response

    def _rule(self, domain: str, entries: Sequence[tuple[str, str]]) -> DescriptorRule | None:
        for rule in self._limiter.policy.descriptors:
            if rule.fits(domain, entries):
                return None if rule.unlimited else rule
        return None


def _check(request: Any) -> None:
    if not request.domain:
        raise InvalidArgument.of_field("domain", "must not be empty.")
    if not 1 <= len(request.descriptors) <= MAX_DESCRIPTORS:
        raise InvalidArgument.of_field("descriptors", f"must be from 1 to {MAX_DESCRIPTORS}.")
    for index, descriptor in enumerate(request.descriptors):
        if not 1 <= len(descriptor.entries) <= MAX_ENTRIES:
            field = f"descriptors[{index}].entries"
            raise InvalidArgument.of_field(field, f"must be from 1 to {MAX_ENTRIES}.")


def _hits(request: Any, descriptor: Any) -> int:
    """Return how much a descriptor takes; its own word counts more, and may be 0: only look."""
    if descriptor.HasField("hits_addend"):
        return int(descriptor.hits_addend.value)
    return request.hits_addend or 1


def _charge(rule: DescriptorRule, entries: Sequence[tuple[str, str]], hits: int) -> Charge:
    words = [word for entry in entries for word in entry]
    account = account_of("envoy", rule.domain, rule.rule.name, *words)
    return Charge(Group(account, RuleSet((rule.rule,))), min(hits, rule.rule.burst + 1))


def _say(response: Any, status: Any, rule: DescriptorRule, decision: Decision) -> None:
    """Fill in what was decided on one descriptor."""
    limit = rule.rule
    if not decision.admitted:
        response.overall_code = status.code = messages.OVER_LIMIT
    if rule.per:
        status.current_limit.name = limit.name
        status.current_limit.requests_per_unit = round(limit.rate_per_s * PERIODS_S[rule.per])
        status.current_limit.unit = messages.UNITS[rule.per]
    for standing in decision.standings:
        status.limit_remaining = standing.remaining
        reset_us = standing.reset_after_us or 0
        status.duration_until_reset.seconds, rest = divmod(reset_us, MICRO)
        status.duration_until_reset.nanos = rest * 1000
        if (rule.headers and not limit.shadow) or not decision.admitted:
            window_s = max(1, round(limit.window_s))
            _header(response, "ratelimit-policy", f'"{limit.name}";q={limit.burst};w={window_s}')
            left = f'"{limit.name}";r={standing.remaining};t={-(-reset_us // MICRO)}'
            _header(response, "ratelimit", left)


def _header(response: Any, key: str, value: str) -> None:
    response.response_headers_to_add.add(key=key, value=value)
