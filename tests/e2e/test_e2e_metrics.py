"""Metrics of every service, in both topologies: there, bounded, and without a secret."""

import asyncio
from typing import Any

import httpx
import pytest

from tests.e2e.clients import channel, chat, http
from tests.e2e.conftest import SERVICES, RunningSuite

MADE_UP = "made-up-by-a-caller"
HOSTILE = (
    MADE_UP,
    f'{MADE_UP}"}} 1\n',
    f"{MADE_UP}\\",
    f"{MADE_UP}\u202e\u0000",
    f"stub-model/{MADE_UP}",
    MADE_UP * 500,
)


async def scrape(suite: RunningSuite) -> dict[str, str]:
    async with httpx.AsyncClient() as client:
        return {
            name: (await client.get(f"http://{suite.metrics[name]}/metrics")).text
            for name in SERVICES
        }


async def test_every_service_counts_the_calls_that_it_serves(suite: RunningSuite) -> None:
    """In one process as in four: the gateway, and each neighbour under its own methods."""
    async with http(suite) as client:
        assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200
    await asyncio.sleep(0.1)  # The settlement follows.
    metrics = await scrape(suite)
    served = {
        "gateway": "weaver.gateway.v1.GatewayService/ChatCompletions",
        "ratelimit": "weaver.ratelimit.v1.RateLimitService/BatchReserve",
        "model": "weaver.model.v1.ModelService/Generate",
        "audit": "weaver.audit.v1.AuditService/AppendRecords",
    }
    for name, method in served.items():
        line = f'grpc_server_handled_total{{grpc_code="OK",grpc_method="/{method}"}}'
        assert line in metrics[name], name
        assert "weaver_clock_time_seconds" in metrics[name]
        assert f'certificate="{name}"' in metrics[name]
    assert 'route="/v1/chat/completions",status="200"' in metrics["gateway"]
    assert "weaver_gateway_overhead_seconds_count" in metrics["gateway"]
    assert 'gen_ai_request_model="stub-model"' in metrics["model"]


async def test_what_callers_make_up_never_becomes_a_label(suite: RunningSuite) -> None:
    async with http(suite) as client:
        for model in HOSTILE:
            for path, body in (
                ("/v1/chat/completions", chat(model=model)),
                ("/v1/embeddings", {"model": model, "input": "x"}),
                ("/v1/messages", {**chat(model=model), "max_tokens": 5}),
            ):
                assert (await client.post(path, json=body)).status_code >= 400
        await client.get(f"/v1/models/{MADE_UP}")
        await client.get(f"/v1/{MADE_UP}")
        await client.get(f"/v1/audit/tile/{MADE_UP}")
        await client.get("/v1/whoami", headers={"x-request-id": MADE_UP, "user-agent": MADE_UP})
    with pytest.raises(httpx.HTTPStatusError):
        async with http(suite, key=f"wv-{MADE_UP}-0123456789") as client:
            (await client.get("/v1/whoami")).raise_for_status()
    native = channel(suite, suite.addresses["gateway"])
    method: Any = native.unary_unary(f"/weaver.gateway.v1.GatewayService/{MADE_UP}")
    with pytest.raises(Exception, match="UNIMPLEMENTED"):
        await method(b"", metadata=(("authorization", f"Bearer {suite.api_key}"),))
    await native.close()
    metrics = await scrape(suite)
    for name, text in metrics.items():
        assert MADE_UP not in text, name
        assert suite.api_key not in text, name
    assert 'grpc_method="unknown"' in metrics["gateway"]
