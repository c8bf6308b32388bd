"""The state of a service and its dependencies."""

import asyncio
from contextlib import aclosing

import pytest
from grpc_health.v1 import health_pb2

from services.common.errors import NotFound
from services.common.health import Health, HealthServicer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
NAME = "weaver.audit.v1.AuditService"


def request(name: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


@pytest.fixture
async def health() -> Health:
    return Health()


async def test_a_service_does_not_serve_before_it_says_so(health: Health) -> None:
    assert not health.serving
    assert health.snapshot() == {"": (False, "starting")}
    health.set("", True)
    assert health.serving


async def test_a_dependency_that_is_down_does_not_stop_the_service(health: Health) -> None:
    health.set("", True)
    health.set("store", False, "connection refused")
    assert health.serving
    assert health.snapshot()["store"] == (False, "connection refused")


async def test_draining_cannot_be_undone(health: Health) -> None:
    health.set("", True)
    health.drain()
    health.set("", True, "again")
    assert not health.serving
    assert health.snapshot()[""] == (False, "draining")


async def test_check_knows_the_service_by_each_of_its_names(health: Health) -> None:
    servicer = HealthServicer(health, [NAME])
    health.set("", True)
    health.set("disk", False)
    assert (await servicer.Check(request(), None)).status == SERVING
    assert (await servicer.Check(request(NAME), None)).status == SERVING
    assert (await servicer.Check(request("disk"), None)).status == NOT_SERVING
    with pytest.raises(NotFound):
        await servicer.Check(request("other"), None)


async def test_list_holds_every_name(health: Health) -> None:
    health.set("disk", True)
    response = await HealthServicer(health, [NAME]).List(None, None)
    assert {name: state.status for name, state in response.statuses.items()} == {
        "": NOT_SERVING,
        NAME: NOT_SERVING,
        "disk": SERVING,
    }


async def test_watch_follows_changes_and_ends_with_the_drain(health: Health) -> None:
    async with aclosing(HealthServicer(health, [NAME]).Watch(request("disk"), None)) as states:
        assert (await anext(states)).status == UNKNOWN
        health.set("disk", True)
        assert (await anext(states)).status == SERVING
        follow = asyncio.ensure_future(anext(states))
        await asyncio.sleep(0)
        health.set("disk", True)
        health.set("disk", True, "with another detail")
        health.set("store", True)
        await asyncio.sleep(0)
        assert not follow.done()
        health.set("disk", False)
        assert (await follow).status == NOT_SERVING
        health.drain()
        with pytest.raises(StopAsyncIteration):
            await anext(states)


async def test_a_change_while_nobody_looks_is_not_lost(health: Health) -> None:
    async with aclosing(HealthServicer(health, [NAME]).Watch(request(NAME), None)) as states:
        assert (await anext(states)).status == NOT_SERVING
        health.set("", True)
        assert (await anext(states)).status == SERVING
