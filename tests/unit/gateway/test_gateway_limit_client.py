"""Reservations and settlements over the limiter's stub."""

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import pytest

from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.common.local import LocalChannel
from services.gateway.events import Usage
from services.gateway.limit_client import LimitClient
from services.gateway.principal import Principal
from tests.fakes.waiting import eventually
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PRINCIPAL = Principal("t", "apikey", "s")


class Limits(ratelimit_service_pb2_grpc.RateLimitServiceServicer):
    """A limiter behind a gate, which keeps what it is asked."""

    def __init__(self, verdict: "pb.Verdict.ValueType" = pb.VERDICT_ADMITTED) -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.lives: list[float] = []
        self.reserved: list[bytes] = []
        self.settled: list[pb.SettleRequest] = []
        self.renewed: list[pb.RenewRequest] = []
        self.failures: list[Exception] = []
        self.bad_subject = ""
        self.rode = 0
        self._verdict = verdict

    async def BatchReserve(  # noqa: N802 - gRPC's name
        self,
        request: pb.BatchReserveRequest,
        context: Any,
    ) -> pb.BatchReserveResponse:
        self.asked.set()
        await self.open.wait()
        self._fail(request)
        self.settled += request.settlements
        self.rode += len(request.settlements)
        ids = [one.reservation_id for one in request.requests]
        self.reserved += ids
        self.lives += [one.time_to_live.ToMilliseconds() / 1000 for one in request.requests]
        return pb.BatchReserveResponse(
            responses=[pb.ReserveResponse(reservation_id=i, verdict=self._verdict) for i in ids]
        )

    async def BatchSettle(  # noqa: N802 - gRPC's name
        self,
        request: pb.BatchSettleRequest,
        context: Any,
    ) -> pb.BatchSettleResponse:
        self._fail(request)
        self.settled += request.requests
        return pb.BatchSettleResponse()

    async def BatchRenew(  # noqa: N802 - gRPC's name
        self,
        request: pb.BatchRenewRequest,
        context: Any,
    ) -> pb.BatchRenewResponse:
        self._fail(request)
        self.renewed += request.requests
        return pb.BatchRenewResponse()

    def _fail(self, request: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        items = [*request.requests, *getattr(request, "settlements", ())]
        if any(one.principal.subject == self.bad_subject for one in items):
            raise InvalidArgument.of_field("requests[0].principal.subject", "is bad")


def client(limits: Limits, **options: Any) -> LimitClient:
    channel = LocalChannel("gateway")
    ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, channel)  # type: ignore[arg-type]
    return LimitClient(channel, **{"timeout_s": 5.0, **options})


def limits_that_answer() -> Limits:
    limits = Limits()  # type: ignore[abstract] # the others are not called
    limits.open.set()
    return limits


def reserve(limiter: LimitClient, principal: Principal = PRINCIPAL) -> Awaitable[Any]:
    return limiter.reserve(principal, "m", tokens=9, cost_micros=7)


@pytest.mark.parametrize(
    ("verdict", "given_back"), [(pb.VERDICT_ADMITTED, 1), (pb.VERDICT_REFUSED, 0)]
)
async def test_an_admission_for_a_caller_who_left_is_given_back(
    verdict: "pb.Verdict.ValueType", given_back: int
) -> None:
    limits = Limits(verdict)  # type: ignore[abstract] # the others are not called
    limiter = client(limits)
    caller = asyncio.ensure_future(reserve(limiter))
    await limits.asked.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    limits.open.set()
    follower = await limiter.reserve(PRINCIPAL, "m", tokens=1, cost_micros=1)
    await limiter.close()
    assert [one.reservation_id for one in limits.settled] == limits.reserved[:given_back]
    assert follower.reservation_id == limits.reserved[1]
    for one in limits.settled:
        assert (one.HasField("usage"), one.cost_micros) == (False, 0)
        assert (one.principal.subject, one.model) == ("s", "m")


async def test_a_settlement_names_the_model_of_the_reservation() -> None:
    """Else what rules per model hold is charged with its bound when the reservation ends."""
    limits = limits_that_answer()
    limiter = client(limits)
    limiter.settle(PRINCIPAL, await reserve(limiter), Usage(1, 2), 3)
    await limiter.close()
    (settled,) = limits.settled
    assert (settled.model, settled.usage.output_tokens, settled.cost_micros) == ("m", 2, 3)


async def test_a_reservation_is_renewed_until_it_is_settled() -> None:
    """Whether the call streams, is silent, or takes longer than a reservation lives."""
    limits = limits_that_answer()
    limiter = client(limits, time_to_live_s=0.15)
    admission = await reserve(limiter)
    assert limits.lives == [0.15]
    await eventually(lambda: len(limits.renewed) >= 3)
    renewal = limits.renewed[0]
    assert (renewal.reservation_id, renewal.model) == (admission.reservation_id, "m")
    assert renewal.time_to_live.ToMilliseconds() == 150
    limiter.settle(PRINCIPAL, admission, None, 0)
    renewed = len(limits.renewed)
    await asyncio.sleep(0.2)
    assert len(limits.renewed) == renewed
    await limiter.close()


async def test_a_reservation_that_nobody_holds_is_left_to_end() -> None:
    """A call that is lost without settling must not keep its slot for ever."""
    limits = limits_that_answer()
    limiter = client(limits, time_to_live_s=0.15)
    admission = await reserve(limiter)
    del admission
    gc.collect()
    await asyncio.sleep(0.2)
    assert limits.renewed == []
    await limiter.close()


async def test_a_renewal_is_tried_again_while_its_reservation_is_held() -> None:
    limits = limits_that_answer()
    limiter = client(limits, time_to_live_s=0.6)
    admission = await reserve(limiter)
    limits.failures = [Unavailable("down")]
    await eventually(lambda: limits.renewed)
    assert not limits.failures
    limiter.settle(PRINCIPAL, admission, None, 0)
    await limiter.close()


async def test_a_settlement_is_sent_until_the_limiter_takes_it() -> None:
    limits = limits_that_answer()
    limiter = client(limits)
    admission = await reserve(limiter)
    limits.failures = [Unavailable("down"), DeadlineExceeded("late")]
    limiter.settle(PRINCIPAL, admission, Usage(1, 2), 3)
    await eventually(lambda: limits.settled)
    await limiter.close()
    assert [one.reservation_id for one in limits.settled] == limits.reserved


async def test_what_may_have_been_reserved_without_an_answer_is_given_back() -> None:
    limits = limits_that_answer()
    limits.failures = [DeadlineExceeded("late")]
    limiter = client(limits)
    with pytest.raises(Unavailable) as caught:
        await reserve(limiter)
    assert caught.value.reason == "RATELIMIT_UNAVAILABLE"
    await limiter.close()
    (settled,) = limits.settled
    assert (settled.model, settled.HasField("usage")) == ("m", False)


async def test_a_bound_that_the_wire_cannot_carry_is_asked_for_as_the_largest() -> None:
    """However much a deployment lets one answer have, asking is a refusal and never a defect."""
    limiter = client(limits_that_answer())
    assert (await limiter.reserve(PRINCIPAL, "m", tokens=2**70, cost_micros=2**70)).admitted
    await limiter.close()


async def test_one_request_of_a_wrong_form_fails_alone() -> None:
    limits = limits_that_answer()
    limits.bad_subject = "bad"
    limiter = client(limits)
    bad = Principal("t", "apikey", "bad")
    answers = await asyncio.gather(
        *(reserve(limiter, who) for who in (PRINCIPAL, bad, PRINCIPAL)), return_exceptions=True
    )
    assert [isinstance(answer, Unavailable) for answer in answers] == [False, True, False]
    for who, admission in ((bad, answers[0]), (PRINCIPAL, answers[0]), (PRINCIPAL, answers[2])):
        assert not isinstance(admission, BaseException)
        limiter.settle(who, admission, None, 0)
    await limiter.close()
    assert [one.reservation_id for one in limits.settled] == limits.reserved


async def test_a_settlement_rides_with_the_next_reservation() -> None:
    limits = limits_that_answer()
    limiter = client(limits)
    for _ in range(3):
        limiter.settle(PRINCIPAL, await reserve(limiter), Usage(1, 2), 3)
    assert (limits.rode, len(limits.settled)) == (2, 2)
    await limiter.close()
    assert [one.reservation_id for one in limits.settled] == limits.reserved


async def test_a_settlement_whose_ride_fails_is_sent_until_the_limiter_takes_it() -> None:
    limits = limits_that_answer()
    limiter = client(limits)
    admission = await reserve(limiter)
    limits.failures = [Unavailable("down"), Unavailable("still down")]
    limiter.settle(PRINCIPAL, admission, Usage(1, 2), 3)
    with pytest.raises(Unavailable):
        await reserve(limiter)
    await eventually(lambda: len(limits.settled) > 1)
    await limiter.close()
    assert limits.rode == 0
    assert admission.reservation_id in [one.reservation_id for one in limits.settled]


async def test_a_settlement_of_a_wrong_form_refuses_no_reservation() -> None:
    limits = limits_that_answer()
    limiter = client(limits)
    admission = await reserve(limiter)
    limits.bad_subject = "bad"
    limiter.settle(Principal("t", "apikey", "bad"), admission, Usage(1, 2), 3)
    assert (await reserve(limiter)).admitted
    await limiter.close()
    assert limits.rode == 0
