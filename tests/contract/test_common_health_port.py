"""The health-only port, and the probe that asks it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common.health_port import serve_health
from services.common.probe import main, probe
from services.common.settings import SettingsError
from tests.fakes.limits import ScriptedLimits, component
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def ask(port: int | None, name: str = "") -> str:
    return await asyncio.to_thread(probe, f"127.0.0.1:{port}", name)


async def serve(stack: AsyncExitStack) -> tuple[Any, int | None]:
    served = component(ScriptedLimits())
    return served, await serve_health(
        served, "127.0.0.1:0", "WEAVER_RATELIMIT_HEALTH_LISTEN", stack
    )


async def test_the_port_tells_whether_the_service_can_do_its_work(stack: AsyncExitStack) -> None:
    served, port = await serve(stack)
    served.health.set("", serving=False)
    assert await ask(port) == f"127.0.0.1:{port}: the service is NOT_SERVING"
    served.health.set("", serving=True)
    assert await ask(port) == ""


async def test_a_service_that_cannot_work_is_alive_and_ready_all_the_same(
    stack: AsyncExitStack,
) -> None:
    served, port = await serve(stack)
    served.health.set("", serving=False)
    assert await ask(port, "live") == ""
    assert await ask(port, "ready") == ""


async def test_a_service_that_drains_is_alive_and_not_ready(stack: AsyncExitStack) -> None:
    served, port = await serve(stack)
    served.health.set("", serving=True)
    served.health.drain()
    assert await ask(port, "live") == ""
    assert await ask(port, "ready") == f"127.0.0.1:{port}: ready is NOT_SERVING"
    assert "NOT_SERVING" in await ask(port)


async def test_a_name_that_nobody_knows_is_not_well(stack: AsyncExitStack) -> None:
    _, port = await serve(stack)
    assert "NOT_FOUND" in await ask(port, "nothing") or "UNKNOWN" in await ask(port, "nothing")


async def test_the_port_answers_nothing_but_health(stack: AsyncExitStack) -> None:
    _, port = await serve(stack)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Reserve(pb.ReserveRequest())
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_taken_port_stops_the_start_with_the_variable(stack: AsyncExitStack) -> None:
    served, port = await serve(stack)
    with pytest.raises(SettingsError, match=r"^WEAVER_X_HEALTH_LISTEN: cannot listen"):
        await serve_health(served, f"127.0.0.1:{port}", "WEAVER_X_HEALTH_LISTEN", stack)
    with pytest.raises(SettingsError, match=r"^WEAVER_X_HEALTH_LISTEN"):
        await serve_health(served, "nonsense", "WEAVER_X_HEALTH_LISTEN", stack)


async def test_without_an_address_nothing_is_served(stack: AsyncExitStack) -> None:
    assert await serve_health(component(ScriptedLimits()), "", "X", stack) is None


async def test_the_probe_is_a_command_with_exit_statuses(stack: AsyncExitStack) -> None:
    served, port = await serve(stack)
    served.health.set("", serving=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.common.probe", f"127.0.0.1:{port}"), cwd=ROOT
    )
    assert await process.wait() == 0


def test_a_probe_of_nobody_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1"]) == 1
    assert "127.0.0.1:1: no answer" in capsys.readouterr().err
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
