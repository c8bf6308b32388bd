"""Reservations and settlements over the limiter's stub."""

import asyncio
from typing import Any

import pytest

from services.common.local import LocalChannel
from services.gateway.limit_client import LimitClient
from services.gateway.principal import Principal
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

PRINCIPAL = Principal("t", "apikey", "s")


class Limits(ratelimit_service_pb2_grpc.RateLimitServiceServicer):
    """A limiter behind a gate, which keeps what it is asked."""

    def __init__(self, verdict: "pb.Verdict.ValueType") -> None:
        self.open = asyncio.Event()
        self.asked = asyncio.Event()
        self.reserved: list[bytes] = []
        self.settled: list[pb.SettleRequest] = []
        self._verdict = verdict

    async def BatchReserve(  # noqa: N802 - gRPC's name
        self,
        request: pb.BatchReserveRequest,
        context: Any,
    ) -> pb.BatchReserveResponse:
        self.asked.set()
        await self.open.wait()
        ids = [one.reservation_id for one in request.requests]
        self.reserved += ids
        return pb.BatchReserveResponse(
            responses=[pb.ReserveResponse(reservation_id=i, verdict=self._verdict) for i in ids]
        )

    async def BatchSettle(  # noqa: N802 - gRPC's name
        self,
        request: pb.BatchSettleRequest,
        context: Any,
    ) -> pb.BatchSettleResponse:
        self.settled += request.requests
        return pb.BatchSettleResponse()


def client(limits: Limits) -> LimitClient:
    channel = LocalChannel("gateway")
    ratelimit_service_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, channel)  # type: ignore[arg-type]
    return LimitClient(channel, timeout_s=5.0)


@pytest.mark.parametrize(
    ("verdict", "given_back"), [(pb.VERDICT_ADMITTED, 1), (pb.VERDICT_REFUSED, 0)]
)
async def test_an_admission_for_a_caller_who_left_is_given_back(
    verdict: "pb.Verdict.ValueType", given_back: int
) -> None:
    limits = Limits(verdict)  # type: ignore[abstract] # the others are not called
    limiter = client(limits)
    caller = asyncio.create_task(limiter.reserve(PRINCIPAL, "m", tokens=9, cost_micros=7))
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
        assert one.principal.subject == "s"
