"""Generated stubs, on the gateway's own port and through Envoy."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.clients import channel
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc


def request(text: str = "hello", **fields: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text=text)], **fields)


@pytest.fixture(params=["gateway", "front"])
async def stub(
    suite: Any, request: pytest.FixtureRequest
) -> AsyncIterator[gateway_service_pb2_grpc.GatewayServiceStub]:
    front = suite.url.removeprefix("https://")
    address = suite.addresses["gateway"] if request.param == "gateway" else front
    async with channel(suite, address) as opened:
        yield gateway_service_pb2_grpc.GatewayServiceStub(opened)


@pytest.fixture
def credentials(suite: Any) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {suite.api_key}"),)


async def test_a_typed_call_is_answered(stub: Any, credentials: Any) -> None:
    answer = await stub.Generate(request(), metadata=credentials, timeout=10)
    assert "hello" in answer.text
    assert answer.usage.output_tokens > 0
    assert answer.request_id
    assert answer.record.origin


async def test_a_typed_stream_is_answered(stub: Any, credentials: Any) -> None:
    call = stub.GenerateStream(
        pb.GenerateStreamRequest(request=request()), metadata=credentials, timeout=10
    )
    steps = [step async for step in call]
    assert "hello" in "".join(step.text_delta for step in steps)
    assert steps[-1].done.finish_reason == "stop"
    assert steps[-1].done.record.index > 0


async def test_errors_carry_their_details(stub: Any, credentials: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(pb.GenerateRequest(), metadata=credentials, timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailers = dict(caught.value.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    assert (info.domain, info.reason) == ("weaver", "INVALID_REQUEST")
    assert [violation.field for violation in bad.field_violations] == ["messages"]


async def test_a_call_without_a_credential_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(request(), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
