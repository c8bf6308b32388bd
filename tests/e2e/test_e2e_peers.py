"""Between services: what a stolen, borrowed or home-made certificate opens. Nothing."""

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default

from tests.e2e.clients import chat, http
from tests.integration.edge.certificates import Authority
from weaver.audit.v1 import audit_service_pb2 as audit_pb
from weaver.audit.v1 import audit_service_pb2_grpc, record_pb2
from weaver.common.v1 import identity_pb2
from weaver.model.v1 import model_service_pb2_grpc  # noqa: F401 - its descriptors
from weaver.ratelimit.v1 import ratelimit_service_pb2 as limit_pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

NEIGHBOURS = {
    "ratelimit": "weaver.ratelimit.v1.RateLimitService",
    "model": "weaver.model.v1.ModelService",
    "audit": "weaver.audit.v1.AuditService",
}
NAMES = ("gateway", "ratelimit", "model", "audit", "envoy")
SHUT_OUT = {"PERMISSION_DENIED", "UNAVAILABLE"}


def certificate(directory: Path, name: str) -> tuple[bytes, bytes]:
    key, chain = directory / f"{name}-key.pem", directory / f"{name}.pem"
    return key.read_bytes(), chain.read_bytes()


@contextlib.asynccontextmanager
async def opened(
    suite: Any, service: str, own: tuple[bytes, bytes] | None
) -> AsyncIterator[grpc.aio.Channel]:
    """Open a channel to a service with somebody's certificate, or with none."""
    key, chain = own or (None, None)
    credentials = grpc.ssl_channel_credentials(
        tls(suite).joinpath("ca.pem").read_bytes(), key, chain
    )
    options = (("grpc.ssl_target_name_override", service), ("grpc.enable_retries", 0))
    address = suite.addresses[service]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        yield channel


def tls(suite: Any) -> Path:
    return Path(suite.state_dir) / "tls"


async def verdicts(channel: grpc.aio.Channel, service: str, **metadata: str) -> dict[str, str]:
    """Call each method of a service with an empty request; return how each call ends."""
    found = Default().FindServiceByName(NEIGHBOURS[service])
    ends = {}
    for method in found.methods:
        empty = message_factory.GetMessageClass(method.input_type)()
        path = f"/{NEIGHBOURS[service]}/{method.name}"
        opens: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
        call = opens(path, request_serializer=type(empty).SerializeToString)(
            empty, timeout=5, metadata=tuple(metadata.items())
        )
        try:
            if method.server_streaming:
                async for _ in call:
                    break
            else:
                await call
        except grpc.aio.AioRpcError as error:
            ends[method.name] = error.code().name
        else:
            ends[method.name] = "OK"
        call.cancel()
    assert ends
    return ends


@pytest.mark.parametrize("service", NEIGHBOURS)
async def test_a_stolen_certificate_of_another_service_opens_nothing(
    suite: Any, service: str
) -> None:
    """Promise: a neighbour accepts only the gateway, whatever else a peer can prove."""
    for name in NAMES:
        if name == "gateway":
            continue
        async with opened(suite, service, certificate(tls(suite), name)) as channel:
            ends = await verdicts(channel, service)
        # They may append what happens to themselves.
        if (service, name) in {("audit", "ratelimit"), ("audit", "model")}:
            assert ends.pop("AppendRecords") in {"OK", "INVALID_ARGUMENT"}
        assert set(ends.values()) <= SHUT_OUT, (name, ends)


@pytest.mark.parametrize("service", NEIGHBOURS)
async def test_without_a_certificate_of_ours_nobody_gets_as_far_as_asking(
    suite: Any, service: str, tmp_path: Path
) -> None:
    forger = Authority(tmp_path)
    forger.issue("gateway", "localhost", "gateway", "spiffe://weaver/gateway")
    claims = {"x-weaver-peer": "gateway"}
    for own in (None, certificate(tmp_path, "gateway")):
        async with opened(suite, service, own) as channel:
            assert set((await verdicts(channel, service, **claims)).values()) == {"UNAVAILABLE"}


async def test_a_peer_cannot_speak_for_another(suite: Any) -> None:
    """A principal, or a record, is believed from the gateway alone."""
    alice = identity_pb2.Principal(tenant="acme", issuer="idp", subject="alice", roles=["admin"])
    async with opened(suite, "ratelimit", certificate(tls(suite), "model")) as channel:
        limits = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        for name in ("model", "gateway"):
            request = limit_pb.ReserveRequest(principal=alice, reservation_id=os.urandom(16))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await limits.Reserve(request, timeout=5, metadata=(("x-weaver-peer", name),))
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with opened(suite, "audit", certificate(tls(suite), "model")) as channel:
        audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        for instance, kind in (
            ("gateway-1", record_pb2.EVENT_TYPE_SERVICE_STARTED),
            ("model-1", record_pb2.EVENT_TYPE_OUTCOME),
            ("model-1", record_pb2.EVENT_TYPE_AUDIT_READ),
        ):
            record = record_pb2.Record(type=kind, principal=alice)
            record.id.CopyFrom(record_pb2.RecordId(instance=instance, epoch=1, sequence=1))
            record.event_time.GetCurrentTime()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await audit.AppendRecords(
                    audit_pb.AppendRecordsRequest(records=[record]), timeout=5
                )
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_nobody_settles_or_reads_the_reservation_of_another_tenant(suite: Any) -> None:
    """Promise: limits are kept by tenant, issuer and subject; another one's id opens nothing."""

    def who(**changes: str) -> identity_pb2.Principal:
        return identity_pb2.Principal(
            **{"tenant": "acme", "issuer": "idp", "subject": "alice", **changes}
        )

    others = (who(tenant="other"), who(issuer="apikey"), who(subject="bob"))
    async with opened(suite, "ratelimit", certificate(tls(suite), "gateway")) as channel:
        limits = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        mine = os.urandom(16)
        reserved = await limits.Reserve(
            limit_pb.ReserveRequest(principal=who(), reservation_id=mine, requests=1), timeout=5
        )
        assert reserved.reservation_id == mine
        for other in others:
            settling = limit_pb.SettleRequest(principal=other, reservation_id=mine)
            assert not (await limits.Settle(settling, timeout=5)).settled
            renewing = limit_pb.RenewRequest(principal=other, reservation_id=mine)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await limits.Renew(renewing, timeout=5)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        settling = limit_pb.SettleRequest(principal=who(), reservation_id=mine)
        assert (await limits.Settle(settling, timeout=5)).settled


async def test_the_suite_still_serves_after_all_of_this(suite: Any) -> None:
    async with http(suite) as client:
        answer = await client.post("/v1/chat/completions", json=chat("still there?"))
    assert answer.status_code == 200
