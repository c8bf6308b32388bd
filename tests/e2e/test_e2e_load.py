"""More work than there is room for: who is let in, what the others are told, and who sees it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import anthropic
import grpc
import httpx
import httpx2
import openai
import pytest

from services.common.errors import Unavailable
from services.common.status import from_rpc_error
from tests.e2e.clients import channel, chat, http, sdk, trust
from weaver.gateway.v1 import gateway_service_pb2 as pb
from weaver.gateway.v1 import gateway_service_pb2_grpc

ROOM = 8
GREEDY, MODEST, ADMIN = "key-of-a-greedy-caller", "key-of-a-modest-caller", "key-of-another-caller"
CHAT = "/v1/chat/completions"
MESSAGE = {"model": "stub-model", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def small(topology: str) -> Iterator[Any]:
    """A suite with little room and a slow provider."""
    from tests.e2e.conftest import RunningSuite  # noqa: PLC0415 - a fixture of the module's own

    running = RunningSuite(
        topology,
        {
            "WEAVER_MAX_IN_FLIGHT": str(ROOM),
            "WEAVER_STUB_LATENCY_MS": "400",
            "WEAVER_ALLOWED_API_KEYS": f"{GREEDY},{MODEST},{ADMIN}",
            "WEAVER_API_KEY_ROLES": "admin",
            "WEAVER_RATELIMIT_RPS": "5000",
            "WEAVER_RATELIMIT_BURST": "10000",
            "WEAVER_HEALTH_DETAILS": "administrators",
        },
    )
    yield running
    running.stop()


@contextlib.asynccontextmanager
async def crowd(suite: Any, connections: int) -> AsyncIterator[Counter[int]]:
    """Have one caller ask over many connections, each again as soon as it has an answer."""
    statuses: Counter[int] = Counter()
    over = asyncio.Event()

    async def ask(client: httpx.AsyncClient, *, stream: bool) -> None:
        while not over.is_set():
            status = (await client.post(CHAT, json=chat(stream=stream))).status_code
            statuses[status] += 1
            await asyncio.sleep(0.1 if status == 503 else 0)

    client = httpx.AsyncClient(
        base_url=suite.url,
        verify=trust(suite),
        limits=httpx.Limits(max_connections=connections),
        headers={"authorization": f"Bearer {GREEDY}"},
        timeout=30,
    )
    async with client:
        tasks = [
            asyncio.create_task(ask(client, stream=number % 2 == 1))
            for number in range(connections)
        ]
        while not statuses[503]:
            await asyncio.sleep(0.02)
        try:
            yield statuses
        finally:
            over.set()
            await asyncio.gather(*tasks)


async def again(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call until it raises."""
    while True:
        await call()


def metric(suite: Any, name: str) -> float:
    numbers = httpx.get(f"http://{suite.metrics['gateway']}/metrics").text
    lines = (line for line in numbers.splitlines() if line.startswith(f"{name} "))
    return float(next(lines, "0").rpartition(" ")[2])


async def test_one_caller_with_many_connections_does_not_starve_another(small: Any) -> None:
    async with crowd(small, 60) as statuses, http(small, key=MODEST) as modest:
        for body in (chat(), chat(stream=True)) * 3:
            assert (await modest.post(CHAT, json=body)).status_code == 200
    assert set(statuses) == {200, 503}
    assert statuses[200] >= ROOM - 1


async def test_what_is_shed_has_each_vendors_shape_and_a_time_to_come_back(small: Any) -> None:
    async with crowd(small, 30), sdk(small, api_key=GREEDY) as openai_client:
        with pytest.raises(openai.InternalServerError) as refused:
            await again(lambda: openai_client.chat.completions.create(**chat()))
        assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 2
        assert 1000 <= int(refused.value.response.headers["retry-after-ms"]) <= 2000
        async with httpx2.AsyncClient(verify=trust(small)) as transport:
            vendor = anthropic.AsyncAnthropic(
                base_url=small.url, api_key=GREEDY, max_retries=0, http_client=transport
            )
            with pytest.raises(anthropic.APIStatusError) as overloaded:
                await again(lambda: vendor.messages.create(**MESSAGE))  # type: ignore[call-overload]
        assert overloaded.value.status_code == 503
        assert overloaded.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
        async with channel(small, small.addresses["gateway"]) as stubs:
            stub = gateway_service_pb2_grpc.GatewayServiceStub(stubs)
            bearer = (("authorization", f"Bearer {GREEDY}"),)
            request = pb.GenerateRequest(messages=[pb.Message(role=pb.ROLE_USER, text="hi")])
            with pytest.raises(grpc.aio.AioRpcError) as native:
                await again(lambda: stub.Generate(request, metadata=bearer))
        error = from_rpc_error(native.value)
        assert isinstance(error, Unavailable)
        assert error.reason == "OVERLOADED"
        assert error.retry_after_s is not None


async def test_the_vendors_sdks_get_through_by_trying_again(small: Any) -> None:
    async with sdk(small, api_key=MODEST, max_retries=8) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(**chat()) for _ in range(2 * ROOM))
        )
    assert all(answer.choices for answer in answers)


async def test_health_and_metrics_show_what_is_shed_and_strangers_learn_no_more(
    small: Any,
) -> None:
    async with (
        crowd(small, 30),
        httpx.AsyncClient(base_url=small.url, verify=trust(small)) as stranger,
        http(small, key=ADMIN) as admin,
    ):
        health = await stranger.get("/health")
        assert health.status_code == 200
        assert health.json() == {
            "status": "degraded",
            "live": True,
            "ready": True,
            "load": "shedding",
            "dependencies": {
                name: "ok" for name in health.json()["dependencies"] if "." not in name
            },
        }
        assert (await stranger.get("/health/live")).json() == {"status": "ok", "live": True}
        assert (await stranger.get("/health/ready")).json() == {"status": "degraded", "ready": True}
        assert (await stranger.get("/health/secrets")).status_code == 404
        assert (await stranger.get("/v1/health")).status_code == 401
        details: Mapping[str, Any] = (await admin.get("/v1/health")).json()
        assert details["requests"]["in_flight"] <= ROOM
        assert "audit.disk" in details["dependencies"]
        assert details["policies"]["audit_on_failure"] == "deny"
    assert metric(small, 'weaver_requests_shed_total{cause="share"}') > 0
    assert metric(small, "weaver_requests_in_flight_limit") == ROOM


async def test_every_shed_request_is_counted_in_the_log(small: Any) -> None:
    """Promise 3: each refused request is counted in exactly one refusal record."""

    def shed() -> float:
        causes = ("total", "share", "delay", "bytes")
        return sum(metric(small, f'weaver_requests_shed_total{{cause="{c}"}}') for c in causes)

    async def recorded() -> int:
        page, found = "", 0
        async with http(small, key=ADMIN) as admin:
            while True:
                parameters = {"type": "refusal", "page_size": "100", "page_token": page}
                body = (await admin.get("/v1/audit/records", params=parameters)).json()
                for item in body["records"]:
                    record = item.get("record", item)
                    if record.get("reason") == "OVERLOADED":
                        found += int(record.get("count", 1))
                page = body.get("next_page_token", "")
                if not page:
                    return found

    async with crowd(small, 20):
        await asyncio.sleep(0.3)
    end = asyncio.get_running_loop().time() + 8
    while (found := await recorded()) != shed():
        assert asyncio.get_running_loop().time() < end, (found, shed())
        await asyncio.sleep(0.3)
