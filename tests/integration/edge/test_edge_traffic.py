"""Traffic is let back in by degrees after an outage: the real command on the real Envoy."""

import asyncio
import subprocess
import sys
from collections import Counter

import pytest

from tests.integration.edge.conftest import Edge, ScriptedGateway

session = pytest.mark.asyncio(loop_scope="session")

WEAVER = (sys.executable, "-m", "services.cli", "envoy", "traffic")


async def let_in(edge: Edge, *arguments: str) -> str:
    admin = ("--admin", f"127.0.0.1:{edge.admin_port}")
    process = await asyncio.create_subprocess_exec(
        *WEAVER, *arguments, *admin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said, problem = await process.communicate()
    assert process.returncode == 0, problem
    return said.decode()


async def counted(edge: Edge, requests: int) -> Counter[int]:
    async with edge.client() as client:
        replies = [await client.get("/v1/models") for _ in range(requests)]
    for reply in replies:
        if reply.status_code == 503:
            assert reply.json()["error"]["code"] == "overloaded"
            assert reply.headers["retry-after"] == "1"
    return Counter(reply.status_code for reply in replies)


@session
async def test_callers_are_let_back_in_by_degrees(edge: Edge, gateway: ScriptedGateway) -> None:
    assert await let_in(edge) == "100 in a hundred requests are let in\n"
    assert await counted(edge, 30) == {200: 30}
    try:
        assert await let_in(edge, "0") == "0 in a hundred requests are let in\n"
        gateway.calls.clear()
        assert await counted(edge, 20) == {503: 20}
        assert not gateway.calls
        async with edge.client() as client:
            for path in ("/health", "/v1/audit/keys", "/v1/admin/usage"):
                assert (await client.get(path)).status_code == 200
        await let_in(edge, "50")
        half = await counted(edge, 200)
        assert 60 <= half[200] <= 140
        assert half[200] + half[503] == 200
    finally:
        await let_in(edge, "100")
    assert await counted(edge, 30) == {200: 30}


def test_an_envoy_that_is_not_there_is_said_to_be() -> None:
    done = subprocess.run(
        [*WEAVER, "5", "--admin", "127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "does not answer" in done.stderr) == (1, True)
    wrong = subprocess.run([*WEAVER, "101"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
