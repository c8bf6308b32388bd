"""The limiter over its stub: reservations and settlements that ride together.

What is owed to the limiter is sent until it is taken: a settlement that was lost would leave a slot
taken and a bound charged until the reservation's time to live is over. All of it is idempotent.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from google.protobuf.duration_pb2 import Duration

from services.common.batching import Batcher, Company, Gathering
from services.common.channel import call
from services.common.errors import InvalidArgument, ResourceExhausted, Unavailable, WeaverError
from services.common.randomness import random32
from services.gateway.audit_client import principal_message
from services.gateway.events import Usage
from services.gateway.limit_messages import admission, limits_of
from services.gateway.ports import Admission
from services.gateway.principal import Principal
from services.gateway.reservations import Live, Reservations
from services.gateway.typed import usage_message
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

SERVICE = "weaver.ratelimit.v1.RateLimitService"
# Every call is idempotent by reservation id.
IDEMPOTENT = tuple(
    f"/{SERVICE}/{method}"
    for method in ("BatchReserve", "BatchSettle", "BatchRenew", "GetUsage", "GetPolicy")
)
RESERVATION_BYTES = 16
SETTLE_WITHIN_S = 0.02
GATHERING_S = 0.004
TIME_TO_LIVE_S: Final = 60.0
"""How long a reservation lives where nobody says; the limiter's own default."""
RESTART_S: Final = 5.0
"""How much longer a decision is waited for while no limiter can be reached: one restarts."""
OWED_FOR_S: Final = 30.0
"""How long a settlement or a renewal is tried; most reservations end by themselves soon after."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0
MOST_OWED: Final = 16_384
MOST_UNSURE: Final = 1_024
MOST_AT_ONCE: Final = 256
LARGEST: Final = 2**63 - 1

Request = TypeVar("Request")
Result = TypeVar("Result")

_log = structlog.get_logger()


class LimitClient:
    """The port `Limiter`.

    Args:
        channel: to the ratelimit service.
        timeout_s: how long a decision may take.
        time_to_live_s: how long what a dead gateway reserved stays reserved.
        company: who is about to ask; a batch waits a moment for them.
    """

    batcher: type[Batcher[Any, Any]] = Batcher

    def __init__(
        self,
        channel: Any,  # noqa: ANN401 - gRPC's or local
        *,
        timeout_s: float,
        time_to_live_s: float = TIME_TO_LIVE_S,
        company: Company | None = None,
    ) -> None:
        """See the class."""
        self._stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        self._timeout_s = timeout_s
        self._time_to_live = Duration()
        self._time_to_live.FromNanoseconds(int(time_to_live_s * 1e9))
        # What the limiter takes by itself need not be said in each request.
        self._say_time_to_live = time_to_live_s != TIME_TO_LIVE_S
        self._reserve: Batcher[pb.ReserveRequest, Admission] = self.batcher(
            self._send_reserve,
            gathering=Gathering(company or Company(), share=2, longest_s=GATHERING_S),
        )
        # Nobody waits for a settlement: it rides with the next reservation, or leaves soon.
        self._settle: Batcher[pb.SettleRequest, None] = self.batcher(
            self._send_settle, linger_s=SETTLE_WITHIN_S, max_pending=MOST_OWED
        )
        self._unsure: Batcher[pb.SettleRequest, None] = self.batcher(
            self._send_settle, linger_s=SETTLE_WITHIN_S, max_pending=MOST_UNSURE
        )
        self._reservations = Reservations(self._begin_renewal, time_to_live_s)
        self._renewals: set[asyncio.Task[None]] = set()

    async def reserve(
        self, principal: Principal, model: str, *, tokens: int, cost_micros: int
    ) -> Admission:
        """Reserve one request with its bound; what comes for a caller who left is given back."""
        request = pb.ReserveRequest(
            reservation_id=random32()[:RESERVATION_BYTES],
            model=model,
            # The wire carries no more; no rule admits so much.
            tokens=min(tokens, LARGEST),
            cost_micros=min(cost_micros, LARGEST),
            principal=principal_message(principal),
        )
        if self._say_time_to_live:
            request.time_to_live.CopyFrom(self._time_to_live)
        if (own := limits_of(principal)) is not None:
            request.own_limits.CopyFrom(own)
        try:
            decided = self._reserve.enqueue(request)
            try:
                verdict = await asyncio.shield(decided)
            except asyncio.CancelledError:
                decided.add_done_callback(partial(self._give_back, principal, request))
                raise
        except WeaverError as error:
            self._release_unsure(request)
            msg = "The limiter cannot be reached, so the call was not made. Try again."
            raise Unavailable(msg, reason="RATELIMIT_UNAVAILABLE", retry_after_s=1.0) from error
        if verdict.admitted:
            self._reservations.hold(principal, verdict)
        return verdict

    def settle(
        self, principal: Principal, admission: Admission, usage: Usage | None, cost_micros: int
    ) -> None:
        """Say what a call really used, in the background."""
        self._reservations.let_go(admission.reservation_id)
        request = pb.SettleRequest(
            reservation_id=admission.reservation_id,
            cost_micros=cost_micros,
            principal=principal_message(principal),
            model=admission.model,
        )
        if (own := limits_of(principal)) is not None:
            request.own_limits.CopyFrom(own)
        if usage is not None:
            request.usage.CopyFrom(usage_message(usage))
        try:
            self._settle.enqueue(request).add_done_callback(_log_failure)
        except ResourceExhausted as error:
            _log.warning("settlement dropped; the bound stays charged", reason=error.reason)

    async def close(self) -> None:
        """Send the settlements that are waiting."""
        self._reservations.close()
        for renewal in self._renewals:
            renewal.cancel()
        await asyncio.gather(self._settle.close(), self._unsure.close())

    def _give_back(
        self, principal: Principal, asked: pb.ReserveRequest, decided: "asyncio.Future[Admission]"
    ) -> None:
        if decided.cancelled() or decided.exception() is not None:
            self._release_unsure(asked)
            return
        verdict = decided.result()
        if verdict.admitted:
            self.settle(principal, verdict, None, 0)

    def _release_unsure(self, asked: pb.ReserveRequest) -> None:
        """Give back what may have been reserved although no answer came."""
        request = pb.SettleRequest(
            reservation_id=asked.reservation_id,
            principal=asked.principal,
            model=asked.model,
            own_limits=asked.own_limits if asked.HasField("own_limits") else None,
        )
        with contextlib.suppress(ResourceExhausted):
            self._unsure.enqueue(request).add_done_callback(_ignore_failure)

    def _begin_renewal(self, live: Sequence[Live]) -> None:
        for start in range(0, len(live), MOST_AT_ONCE):
            task = asyncio.ensure_future(self._send_renewal(live[start : start + MOST_AT_ONCE]))
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)
            task.add_done_callback(_log_failure)

    async def _send_reserve(
        self, requests: Sequence[pb.ReserveRequest]
    ) -> Sequence[Admission | Exception]:
        async def send(part: Sequence[pb.ReserveRequest]) -> Sequence[Admission]:
            riding = self._settle.take()
            request = pb.BatchReserveRequest(
                requests=part, settlements=[settlement for settlement, _ in riding]
            )
            try:
                response = await call(
                    self._stub.BatchReserve,
                    request,
                    timeout_s=self._timeout_s,
                    patience_s=RESTART_S,
                )
            except BaseException as error:
                self._settle.back(riding)
                if not riding or not isinstance(error, InvalidArgument):
                    raise
                return await send(part)  # Alone: the form of a settlement may have been wrong.
            for _, settled in riding:
                if not settled.done():
                    settled.set_result(None)
            return [
                admission(one, asked.model)
                for one, asked in zip(response.responses, part, strict=True)
            ]

        return await _sent(requests, send)

    async def _send_settle(
        self, requests: Sequence[pb.SettleRequest]
    ) -> Sequence[Exception | None]:
        async def send(part: Sequence[pb.SettleRequest]) -> Sequence[None]:
            request = pb.BatchSettleRequest(requests=part)
            await self._insist(self._stub.BatchSettle, lambda: request)
            return [None] * len(part)

        return await _sent(requests, send)

    async def _send_renewal(self, live: Sequence[Live]) -> None:
        def made() -> pb.BatchRenewRequest | None:
            # What was settled meanwhile is gone, and is not asked about again.
            still = [
                pb.RenewRequest(
                    reservation_id=one.reservation_id,
                    principal=principal_message(one.principal),
                    model=one.model,
                    time_to_live=self._time_to_live,
                    own_limits=limits_of(one.principal),
                )
                for one in live
                if one.reservation_id in self._reservations
            ]
            return pb.BatchRenewRequest(requests=still) if still else None

        # The next renewal takes over, so this one never tries for longer than that.
        await self._insist(self._stub.BatchRenew, made, min(OWED_FOR_S, self._reservations.every_s))

    async def _insist(
        self,
        method: Any,  # noqa: ANN401 - a stub's
        make: Callable[[], Any],
        for_s: float = OWED_FOR_S,
    ) -> None:
        """Make a call that is owed until it is taken, is needed no more, or trying is over."""
        loop = asyncio.get_running_loop()
        end, pause_s = loop.time() + for_s, FIRST_PAUSE_S
        while (request := make()) is not None:
            try:
                await call(method, request, timeout_s=self._timeout_s)
            except InvalidArgument:
                raise
            except WeaverError:
                if loop.time() + pause_s > end:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                return


async def _sent(
    requests: Sequence[Request], send: Callable[[Sequence[Request]], Awaitable[Sequence[Result]]]
) -> Sequence[Result | Exception]:
    """Send a batch; where the limiter refuses its form, each by itself, so that one fails alone."""
    try:
        return await send(requests)
    except InvalidArgument:
        if len(requests) == 1:
            raise
    results: list[Result | Exception] = []
    for request in requests:
        try:
            results += await send((request,))
        except WeaverError as error:
            results.append(error)
    return results


def _log_failure(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        _log.warning("settlement or renewal failed; the bound stays charged", error=str(error))


def _ignore_failure(future: "asyncio.Future[Any]") -> None:
    """Leave it to the time to live: whether there is a reservation at all is not known."""
    if not future.cancelled():
        future.exception()
