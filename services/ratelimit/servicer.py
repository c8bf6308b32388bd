"""Protobuf to the limiter and back; it checks the form of requests and decides nothing."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from services.common.errors import InvalidArgument
from services.ratelimit.answers import (
    SOURCES,
    limit_state,
    policy_rule,
    renew_response,
    reserve_response,
    settle_response,
)
from services.ratelimit.limiter import Limiter
from services.ratelimit.own_messages import own_limits
from services.ratelimit.peers import allowed_peer
from services.ratelimit.plan import Renewal, Reservation, Settlement
from services.ratelimit.ports import Caller
from services.ratelimit.rule import MAX_AMOUNT, MAX_COST
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

MAX_BATCH = 1_000
MAX_TIME_TO_LIVE_S = 3_600
DEFAULT_TIME_TO_LIVE_US = 60_000_000

_ID_BYTES = 16
_MODEL_CHARACTERS = 256


_OfCaller = (
    pb.ReserveRequest | pb.SettleRequest | pb.RenewRequest | pb.PeekRequest | pb.GetUsageRequest
)


class RateLimitServicer(rpc.RateLimitServiceServicer):
    """Serves `weaver.ratelimit.v1.RateLimitService`.

    Args:
        limiter: decides.
        clients: who may call, by the name in their certificate; Envoy may not.
        problem: tells why the policy file was refused; empty while it decides.
    """

    def __init__(
        self, limiter: Limiter, clients: Collection[str], problem: Callable[[], str] = str
    ) -> None:
        """See the class."""
        self._limiter = limiter
        self._clients = frozenset(clients)
        self._problem = problem

    def _peer(self, context: Any) -> str:
        return allowed_peer(context, self._clients)

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:
        """Reserve one request against every rule of a principal."""
        reservation = _reservation(request, self._peer(context), "")
        (decision,) = await self._limiter.reserve((reservation,))
        return reserve_response(reservation.id, decision)

    async def BatchReserve(
        self,
        request: pb.BatchReserveRequest,
        context: Any,
    ) -> pb.BatchReserveResponse:
        """Reserve many requests in one round trip."""
        peer = self._peer(context)
        _check_size(request.requests)
        _check_size(request.settlements, "settlements")
        reservations = [
            _reservation(item, peer, f"requests[{index}].")
            for index, item in enumerate(request.requests)
        ]
        settlements = [
            _settlement(item, peer, f"settlements[{index}].")
            for index, item in enumerate(request.settlements)
        ]
        settled, decisions = await self._limiter.settle_and_reserve(settlements, reservations)
        return pb.BatchReserveResponse(
            responses=[
                reserve_response(reservation.id, decision)
                for reservation, decision in zip(reservations, decisions, strict=True)
            ],
            settled=[settle_response(result) for result in settled],
        )

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:
        """Settle a reservation with the real usage."""
        (result,) = await self._limiter.settle((_settlement(request, self._peer(context), ""),))
        response = settle_response(result)
        response.limits.extend(map(limit_state, result.standings))
        return response

    async def BatchSettle(
        self,
        request: pb.BatchSettleRequest,
        context: Any,
    ) -> pb.BatchSettleResponse:
        """Settle many reservations in one round trip."""
        peer = self._peer(context)
        _check_size(request.requests)
        results = await self._limiter.settle(
            [
                _settlement(item, peer, f"requests[{index}].")
                for index, item in enumerate(request.requests)
            ],
            look=False,
        )
        return pb.BatchSettleResponse(responses=[settle_response(result) for result in results])

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        """Extend the time to live of a reservation."""
        renewal = _renewal(request, self._peer(context), "")
        return renew_response(await self._limiter.renew_one(renewal))

    async def BatchRenew(
        self,
        request: pb.BatchRenewRequest,
        context: Any,
    ) -> pb.BatchRenewResponse:
        """Extend many reservations in one round trip."""
        peer = self._peer(context)
        _check_size(request.requests)
        ends = await self._limiter.renew(
            [
                _renewal(item, peer, f"requests[{index}].")
                for index, item in enumerate(request.requests)
            ]
        )
        return pb.BatchRenewResponse(responses=map(renew_response, ends))

    async def Peek(self, request: pb.PeekRequest, context: Any) -> pb.PeekResponse:
        """Read the state of a principal's limits."""
        caller = _caller(request, self._peer(context), "")
        model = _model(request.model, "")
        standings, version, source = await self._limiter.peek(caller, model)
        return pb.PeekResponse(
            limits=map(limit_state, standings), policy_version=version, source=SOURCES[source]
        )

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:
        """Tell what a principal has used of each limit."""
        caller = _caller(request, self._peer(context), "")
        model = _model(request.model, "") or None
        standings, version, source = await self._limiter.peek(caller, model)
        return pb.GetUsageResponse(
            usages=[
                pb.LimitUsage(limit=limit_state(standing), used=standing.used, held=standing.held)
                for standing in standings
            ],
            policy_version=version,
            source=SOURCES[source],
        )

    async def GetPolicy(self, request: pb.GetPolicyRequest, context: Any) -> pb.GetPolicyResponse:  # noqa: ARG002 - gRPC's signature
        """Tell which rules decide."""
        self._peer(context)
        policy = self._limiter.policy
        return pb.GetPolicyResponse(
            version=policy.version,
            rules=map(policy_rule, policy.rules),
            envoy_rules=len(policy.descriptors),
            refused=self._problem(),
            on_store_failure=self._limiter.on_store_failure,
        )


def _reservation(request: pb.ReserveRequest, peer: str, path: str) -> Reservation:
    return Reservation(
        _caller(request, peer, path),
        _id(request.reservation_id, path),
        _amount(request.requests, path + "requests") or 1,
        _amount(request.tokens, path + "tokens"),
        _time_to_live_us(request, path),
        _amount(request.cost_micros, path + "cost_micros", MAX_COST),
        _model(request.model, path),
    )


def _settlement(request: pb.SettleRequest, peer: str, path: str) -> Settlement:
    usage = request.usage
    tokens = _amount(usage.input_tokens, path + "usage.input_tokens")
    tokens += _amount(usage.output_tokens, path + "usage.output_tokens")
    return Settlement(
        _caller(request, peer, path),
        _id(request.reservation_id, path),
        tokens,
        _amount(request.cost_micros, path + "cost_micros", MAX_COST),
        _model(request.model, path),
    )


def _renewal(request: pb.RenewRequest, peer: str, path: str) -> Renewal:
    return Renewal(
        _caller(request, peer, path),
        _id(request.reservation_id, path),
        _time_to_live_us(request, path),
        _model(request.model, path),
    )


def _caller(request: _OfCaller, peer: str, path: str) -> Caller:
    principal = request.principal
    limits = own_limits(request.own_limits, path) if request.HasField("own_limits") else None
    caller = Caller(
        principal.tenant, principal.issuer, principal.subject, peer, tuple(principal.roles), limits
    )
    if not caller.tenant or not caller.subject:
        field = "principal.subject" if caller.tenant else "principal.tenant"
        description = "must not be empty."
        raise InvalidArgument.of_field(path + field, description)
    return caller


def _id(value: bytes, path: str) -> bytes:
    if len(value) != _ID_BYTES:
        description = f"must be {_ID_BYTES} bytes, not {len(value)}."
        raise InvalidArgument.of_field(path + "reservation_id", description)
    return value


def _model(name: str, path: str) -> str:
    if len(name) > _MODEL_CHARACTERS:
        description = f"must be at most {_MODEL_CHARACTERS} characters."
        raise InvalidArgument.of_field(path + "model", description)
    return name


def _amount(value: int, field: str, most: int = MAX_AMOUNT) -> int:
    """Return an amount, cut to one more than any limit allows, which no rule admits."""
    if value < 0:
        description = "must not be negative."
        raise InvalidArgument.of_field(field, description)
    return min(value, most + 1)


def _time_to_live_us(request: pb.ReserveRequest | pb.RenewRequest, path: str) -> int:
    if not request.HasField("time_to_live"):
        return DEFAULT_TIME_TO_LIVE_US
    duration = request.time_to_live
    microseconds = duration.seconds * 1_000_000 + duration.nanos // 1000
    if not 0 < microseconds <= MAX_TIME_TO_LIVE_S * 1_000_000:
        description = f"must be above 0 s and at most {MAX_TIME_TO_LIVE_S} s."
        raise InvalidArgument.of_field(path + "time_to_live", description)
    return microseconds


def _check_size(items: Sequence[object], field: str = "requests") -> None:
    if len(items) > MAX_BATCH:
        raise InvalidArgument.of_field(field, f"must be at most {MAX_BATCH} items.")
