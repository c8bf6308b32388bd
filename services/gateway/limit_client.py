"""The limiter over its stub: reservations and settlements that ride together."""

import asyncio
import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import structlog

from services.common.batching import Batcher, Company, Gathering
from services.common.channel import call
from services.common.errors import ResourceExhausted, Unavailable, WeaverError
from services.gateway.audit_client import principal_message
from services.gateway.events import LimitDecision, Usage
from services.gateway.ports import Admission, LimitState
from services.gateway.principal import Principal
from services.gateway.typed import usage_message
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

SERVICE = "weaver.ratelimit.v1.RateLimitService"
# Every call is idempotent by reservation id.
IDEMPOTENT = tuple(f"/{SERVICE}/{method}" for method in ("BatchReserve", "BatchSettle", "Renew"))
RESERVATION_BYTES = 16
SETTLE_WITHIN_S = 0.02
GATHERING_S = 0.002

_VERDICTS: Final = {pb.VERDICT_ADMITTED: "admitted", pb.VERDICT_REFUSED: "refused"}
_SOURCES: Final = {pb.SOURCE_STORE: "store", pb.SOURCE_LOCAL: "local", pb.SOURCE_NONE: "none"}
_UNITS: Final = {
    pb.UNIT_REQUESTS: "requests",
    pb.UNIT_TOKENS: "tokens",
    pb.UNIT_COST_MICROS: "cost_micros",
    pb.UNIT_CONCURRENCY: "concurrency",
}
_log = structlog.get_logger()


class LimitClient:
    """The port `Limiter`.

    Args:
        channel: to the ratelimit service.
        timeout_s: how long a decision may take.
        company: who is about to ask; a batch waits a moment for them.
    """

    def __init__(self, channel: Any, *, timeout_s: float, company: Company | None = None) -> None:  # noqa: ANN401 - gRPC's or local
        """See the class."""
        self._stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self._timeout_s = timeout_s
        self._reserve: Batcher[pb.ReserveRequest, Admission] = Batcher(
            self._send_reserve,
            gathering=Gathering(company or Company(), share=4, longest_s=GATHERING_S),
        )
        # Nobody waits for a settlement: it leaves with the next reservation, or soon.
        self._settle: Batcher[pb.SettleRequest, None] = Batcher(
            self._send_settle, linger_s=SETTLE_WITHIN_S
        )
        self._renewals: set[asyncio.Task[Any]] = set()

    async def reserve(
        self, principal: Principal, model: str, *, tokens: int, cost_micros: int
    ) -> Admission:
        """Reserve one request with its bound; what comes for a caller who left is given back."""
        request = pb.ReserveRequest(
            reservation_id=os.urandom(RESERVATION_BYTES),
            model=model,
            tokens=tokens,
            cost_micros=cost_micros,
            principal=principal_message(principal),
        )
        self._settle.hurry()
        try:
            admitted = self._reserve.enqueue(request)
            try:
                return await asyncio.shield(admitted)
            except asyncio.CancelledError:
                admitted.add_done_callback(partial(self._give_back, principal))
                raise
        except WeaverError as error:
            msg = "The limiter cannot be reached, so the call was not made. Try again."
            raise Unavailable(msg, reason="RATELIMIT_UNAVAILABLE", retry_after_s=1.0) from error

    def settle(
        self, principal: Principal, admission: Admission, usage: Usage | None, cost_micros: int
    ) -> None:
        """Say what a call really used, in the background."""
        request = pb.SettleRequest(
            reservation_id=admission.reservation_id,
            cost_micros=cost_micros,
            principal=principal_message(principal),
        )
        if usage is not None:
            request.usage.CopyFrom(usage_message(usage))
        try:
            self._settle.enqueue(request).add_done_callback(_log_failure)
        except ResourceExhausted as error:
            _log.warning("settlement dropped; the bound stays charged", reason=error.reason)

    def renew(self, principal: Principal, admission: Admission) -> None:
        """Keep a reservation alive, in the background."""
        request = pb.RenewRequest(
            reservation_id=admission.reservation_id, principal=principal_message(principal)
        )
        task = asyncio.ensure_future(call(self._stub.Renew, request, timeout_s=self._timeout_s))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)
        task.add_done_callback(_log_failure)

    async def close(self) -> None:
        """Send the settlements that are waiting."""
        await self._settle.close()

    def _give_back(self, principal: Principal, admitted: "asyncio.Future[Admission]") -> None:
        if admitted.cancelled() or admitted.exception() is not None:
            return
        admission = admitted.result()
        if admission.admitted:
            self.settle(principal, admission, None, 0)

    async def _send_reserve(
        self, requests: Sequence[pb.ReserveRequest]
    ) -> Sequence[Admission | Exception]:
        response = await call(
            self._stub.BatchReserve,
            pb.BatchReserveRequest(requests=requests),
            timeout_s=self._timeout_s,
        )
        return [_admission(one) for one in response.responses]

    async def _send_settle(
        self, requests: Sequence[pb.SettleRequest]
    ) -> Sequence[Exception | None]:
        await call(
            self._stub.BatchSettle,
            pb.BatchSettleRequest(requests=requests),
            timeout_s=self._timeout_s,
        )
        return [None] * len(requests)


def _admission(response: pb.ReserveResponse) -> Admission:
    admitted = response.verdict == pb.VERDICT_ADMITTED
    return Admission(
        response.reservation_id,
        admitted,
        LimitDecision(
            _VERDICTS.get(response.verdict, ""),
            response.refused_by,
            response.policy_version,
            _SOURCES.get(response.source, ""),
        ),
        tuple(
            LimitState(
                limit.name,
                _UNITS.get(limit.unit, ""),
                limit.limit,
                limit.remaining,
                limit.reset_after.seconds + limit.reset_after.nanos / 1e9,
                limit.window.seconds + limit.window.nanos / 1e9,
            )
            for limit in response.limits
        ),
        response.retry_after.seconds + response.retry_after.nanos / 1e9
        if response.HasField("retry_after")
        else None,
    )


def _log_failure(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _log.warning("settlement or renewal failed; the bound stays charged", error=str(error))
