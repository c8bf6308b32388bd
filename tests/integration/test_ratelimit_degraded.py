"""Promise 6 without the store: the declared policy applies and is visible everywhere."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from services.common.channel import call
from services.common.component import Component
from services.common.errors import Unavailable
from services.common.local import LocalChannel
from services.common.settings import load
from services.ratelimit.settings import RatelimitSettings
from services.ratelimit.wiring import build
from tests.fakes.valkey import Valkey
from weaver.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, record_pb2
from weaver.common.v1 import identity_pb2
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc as rpc

PRINCIPAL = identity_pb2.Principal(tenant="acme", issuer="apikey", subject="k1")


class AuditLog(audit_service_pb2_grpc.AuditServiceServicer):
    """Keeps records in a list, but for the service's start and end."""

    def __init__(self) -> None:
        self.records: list[record_pb2.Record] = []

    async def AppendRecords(  # noqa: N802 - gRPC's name
        self, request: audit_service_pb2.AppendRecordsRequest, context: Any
    ) -> audit_service_pb2.AppendRecordsResponse:
        degraded = (
            record_pb2.EVENT_TYPE_DEGRADED_ENTERED,
            record_pb2.EVENT_TYPE_DEGRADED_LEFT,
            record_pb2.EVENT_TYPE_CONFIGURATION_CHANGED,
        )
        self.records.extend(record for record in request.records if record.type in degraded)
        return audit_service_pb2.AppendRecordsResponse()


class Suite:
    """A limiter with its neighbours."""

    def __init__(self, component: Component, log: AuditLog) -> None:
        channel = LocalChannel("gateway")
        component.register(channel)
        self.component = component
        self.log = log
        self.stub: Any = rpc.RateLimitServiceStub(cast("Any", channel))

    async def reserve(self) -> pb.ReserveResponse:
        request = pb.ReserveRequest(reservation_id=os.urandom(16), principal=PRINCIPAL)
        response: pb.ReserveResponse = await call(self.stub.Reserve, request, timeout_s=1)
        return response

    @property
    def store_up(self) -> bool:
        return self.component.health.snapshot()["store"][0]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path) as server:
        yield server


@pytest.fixture
async def suite(valkey: Valkey, request: pytest.FixtureRequest) -> AsyncIterator[Suite]:
    log = AuditLog()  # type: ignore[abstract] # the rest answers UNIMPLEMENTED
    audit = LocalChannel("ratelimit")
    audit_service_pb2_grpc.add_AuditServiceServicer_to_server(log, cast("Any", audit))
    settings = load(
        RatelimitSettings,
        redis_unix_socket=valkey.socket,
        rps=0.01,
        burst=4,
        replicas=2,
        on_store_failure=getattr(request, "param", "local"),
    )
    async with AsyncExitStack() as stack:
        yield Suite(await build(settings, stack, audit), log)


async def test_losing_the_store_is_visible_everywhere_and_passes(
    suite: Suite, valkey: Valkey
) -> None:
    assert (await suite.reserve()).source == pb.SOURCE_STORE
    assert suite.log.records == []
    valkey.kill()
    await until(lambda: not suite.store_up)
    decisions = [await suite.reserve() for _ in range(3)]
    assert [decision.source for decision in decisions] == [pb.SOURCE_LOCAL] * 3
    assert [decision.verdict for decision in decisions] == [
        pb.VERDICT_ADMITTED,
        pb.VERDICT_ADMITTED,
        pb.VERDICT_REFUSED,
    ]
    assert suite.component.metrics.get_sample_value("ratelimit_store_up") == 0
    assert suite.component.health.snapshot()[""] == (True, "")
    valkey.start()
    await until(lambda: suite.store_up)
    assert (await suite.reserve()).source == pb.SOURCE_STORE
    await until(lambda: len(suite.log.records) == 2)
    entered, left = suite.log.records
    assert entered.type == record_pb2.EVENT_TYPE_DEGRADED_ENTERED
    assert left.type == record_pb2.EVENT_TYPE_DEGRADED_LEFT
    assert entered.attributes["policy"] == "local"
    assert entered.id.instance.startswith("ratelimit-")
    assert left.id.sequence == entered.id.sequence + 1


@pytest.mark.parametrize("suite", ["deny"], indirect=True)
async def test_deny_refuses_while_the_store_is_down(suite: Suite, valkey: Valkey) -> None:
    valkey.kill()
    with pytest.raises(Unavailable) as caught:
        await suite.reserve()
    assert caught.value.reason == "RATELIMIT_UNAVAILABLE"


@pytest.mark.parametrize("suite", ["allow"], indirect=True)
async def test_allow_admits_while_the_store_is_down(suite: Suite, valkey: Valkey) -> None:
    valkey.kill()
    for _ in range(10):
        decision = await suite.reserve()
        assert (decision.verdict, decision.source) == (pb.VERDICT_ADMITTED, pb.SOURCE_NONE)


async def test_it_starts_without_store_and_without_audit_service(tmp_path: Path) -> None:
    settings = load(
        RatelimitSettings,
        redis_unix_socket=tmp_path / "none.sock",
        audit_address="127.0.0.1:1",
        mtls_enabled=False,
    )
    async with AsyncExitStack() as stack:
        suite = Suite(await build(settings, stack), AuditLog())  # type: ignore[abstract] # unused
        assert not suite.store_up
        assert (await suite.reserve()).source == pb.SOURCE_LOCAL
