"""Traces through the front door, at a real receiver of OTLP: over HTTP and over gRPC."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.e2e.clients import chat, http, trust
from tests.e2e.conftest import RunningSuite
from tests.fakes.collector import CollectorFake, Received

SERVER, CLIENT = 2, 3
CALLER = "00f067aa0ba902b7"
SPANS = 15
NAMESPACE = "weaver-ai-prod"


@pytest.fixture(scope="module")
def collector() -> Iterator[CollectorFake]:
    # An address of its own for the one port that means gRPC.
    collector = CollectorFake(f"127.44.{os.getpid() % 250}.{1 + os.getpid() // 250 % 250}")
    yield collector
    collector.close()


@pytest.fixture(scope="module")
def traced(topology: str, collector: CollectorFake) -> Iterator[RunningSuite]:
    endpoint = collector.grpc_url if topology == "up" else collector.http_url
    running = RunningSuite(
        topology,
        {
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_ENDPOINT": endpoint,
            "WEAVER_TELEMETRY_METRICS_SECONDS": "1",
            "OTEL_SERVICE_NAME": NAMESPACE,
            "OTEL_SERVICE_VERSION": "9.8.7",
            "WEAVER_RATELIMIT_RPS": "1000",
            "WEAVER_RATELIMIT_BURST": "1000",
        },
    )
    yield running
    running.stop()


def whole(spans: list[Received]) -> bool:
    """Whether the trace is here: Envoy's span and the gateway's arrive each in its own time."""
    services = {span.service.removeprefix(f"{NAMESPACE}-") for span in spans}
    return services == {"envoy", "gateway", "ratelimit", "model", "audit"} and len(spans) >= SPANS


def tree_of(collector: CollectorFake, trace_id: str) -> dict[str, Received]:
    """Return the spans of a trace by their ids, once it is complete."""
    collector.wait(lambda kept: whole(kept.trace(trace_id)))
    time.sleep(0.1)
    return {span.span_id: span for span in collector.trace(trace_id)}


async def ask(suite: RunningSuite, trace_id: str, **fields: Any) -> httpx.Response:
    header = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
    async with http(suite) as client:
        answer = await client.post(
            "/v1/chat/completions?api_key=in-a-query",
            json=chat("sesame@example.org", **fields),
            headers=header,
        )
        assert answer.status_code == 200, answer.text
        return answer


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_one_unbroken_tree_from_the_front_door_to_every_service(
    traced: RunningSuite, collector: CollectorFake, stream: bool
) -> None:
    trace_id = os.urandom(16).hex()
    answer = await ask(traced, trace_id, stream=stream)
    spans = tree_of(collector, trace_id)
    (root,) = [span for span in spans.values() if span.parent_id not in spans]
    assert root.service == f"{NAMESPACE}-envoy"
    assert root.parent_id == CALLER
    for span in spans.values():
        if span.kind == SERVER and span is not root:
            above = spans[span.parent_id]
            assert above.kind == CLIENT or above is root, (span, above)
        assert not span.failed, span
        assert span.resource["service.namespace"] == NAMESPACE
        assert span.resource["service.version"] == "9.8.7"
    request_id = answer.headers["x-request-id"]
    (served,) = [s for s in spans.values() if s.parent_id == root.span_id]
    assert served.service == f"{NAMESPACE}-gateway"
    assert served.attributes["weaver.request_id"] == request_id
    assert root.attributes["weaver.request_id"] == request_id
    if not stream:
        assert served.attributes["weaver.audit.outcome"] == answer.headers["x-weaver-record"]
    assert served.attributes["gen_ai.provider.name"] == "stub"
    (asked,) = [s for s in spans.values() if s.name == "chat stub-model"]
    assert asked.service == f"{NAMESPACE}-model"
    assert asked.kind == CLIENT
    assert asked.attributes["gen_ai.operation.name"] == "chat"
    assert asked.attributes["gen_ai.provider.name"] == "stub"
    assert asked.attributes["gen_ai.request.model"] == "stub-model"
    assert asked.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert asked.attributes["gen_ai.usage.output_tokens"] > 0


async def test_a_record_carries_the_trace_that_the_span_belongs_to(
    traced: RunningSuite, collector: CollectorFake
) -> None:
    trace_id = os.urandom(16).hex()
    await ask(traced, trace_id)
    spans = tree_of(collector, trace_id).values()
    (served,) = [s for s in spans if s.name.endswith("GatewayService/ChatCompletions")]
    index = served.attributes["weaver.audit.outcome"].rpartition(" ")[2]
    shown = traced.weaver("audit", "show", index, timeout=30)
    assert trace_id in shown.stdout, shown.stdout + shown.stderr


async def test_a_trace_holds_no_secret_and_nothing_that_was_asked(
    traced: RunningSuite, collector: CollectorFake
) -> None:
    trace_id = os.urandom(16).hex()
    await ask(traced, trace_id)
    spans = [*tree_of(collector, trace_id).values()]
    held = json.dumps(spans)
    for secret in ("sesame", "in-a-query", traced.api_key):
        assert secret not in held
    (root,) = [span for span in spans if span.parent_id == CALLER]
    assert root.attributes["peer.address"] == "-"
    assert '"http.url": "/v1/chat/completions"' in held


async def test_requests_that_ride_together_each_have_a_whole_tree(
    traced: RunningSuite, collector: CollectorFake
) -> None:
    ids = [os.urandom(16).hex() for _ in range(8)]
    await asyncio.gather(*(ask(traced, trace_id) for trace_id in ids))
    names = {"reserve", "audit intent", "audit outcome"}

    def arrived(kept: CollectorFake) -> bool:
        return all(
            names < {span.name for span in kept.trace(trace_id)}
            and any(span.service.endswith("envoy") for span in kept.trace(trace_id))
            for trace_id in ids
        )

    collector.wait(arrived)
    for trace_id in ids:
        spans = {span.span_id: span for span in collector.trace(trace_id)}
        assert len([s for s in spans.values() if s.parent_id not in spans]) == 1


async def test_a_refused_request_is_a_tree_too(
    traced: RunningSuite, collector: CollectorFake
) -> None:
    trace_id = os.urandom(16).hex()
    async with http(traced, key="wv-wrong-key-that-nobody-has") as client:
        header = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
        answer = await client.post("/v1/chat/completions", json=chat(), headers=header)
    assert answer.status_code == 401
    collector.wait(lambda kept: len(kept.trace(trace_id)) == 2)
    (served,) = [s for s in collector.trace(trace_id) if s.service.endswith("gateway")]
    assert served.attributes["rpc.grpc.status_code"] == 16


def test_metrics_go_to_the_collector_too_and_are_cumulative(
    traced: RunningSuite, collector: CollectorFake
) -> None:
    """A collector that missed some gets the sum with the next."""
    headers = {"authorization": f"Bearer {traced.api_key}"}

    def counted() -> float:
        points = [
            point.as_double + point.as_int
            for one in list(collector.metrics)
            if one["service"] == f"{NAMESPACE}-gateway" and one["metric"].name == "http_requests"
            for point in one["metric"].sum.data_points
            if any(item.value.string_value == "/v1/whoami" for item in point.attributes)
        ]
        return points[-1] if points else 0.0

    collector.metrics.clear()  # Another suite may have sent some.
    with httpx.Client(base_url=traced.url, verify=trust(traced), headers=headers) as client:
        collector.wait(lambda kept: kept.metrics)
        before = counted()
        for _ in range(3):
            assert client.get("/v1/whoami").status_code == 200
    collector.wait(lambda _: counted() >= before + 3)
    last = [one for one in collector.metrics if one["metric"].name == "http_requests"][-1]
    assert last["metric"].sum.is_monotonic
    assert last["metric"].sum.aggregation_temporality == 2  # cumulative
    everyone = {f"{NAMESPACE}-{name}" for name in ("gateway", "ratelimit", "model", "audit")}
    collector.wait(lambda kept: {one["service"] for one in list(kept.metrics)} == everyone)


def test_sampling_is_decided_at_the_front_door_for_all_hops(
    start_suite: Callable[[str, Mapping[str, str]], RunningSuite], collector: CollectorFake
) -> None:
    suite = start_suite(
        "separate",
        {
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_ENDPOINT": collector.grpc_url,
            "WEAVER_TELEMETRY_SAMPLE_RATIO": "0.3",
            "OTEL_SERVICE_NAME": "sampled",
            "WEAVER_RATELIMIT_RPS": "1000",
            "WEAVER_RATELIMIT_BURST": "1000",
        },
    )
    ids = [os.urandom(16).hex() for _ in range(60)]
    headers = {"authorization": f"Bearer {suite.api_key}"}
    with httpx.Client(base_url=suite.url, verify=trust(suite), headers=headers) as client:
        for trace_id in ids:
            header = {"traceparent": f"00-{trace_id}-{CALLER}-01"}
            assert client.get("/v1/models", headers=header).status_code == 200
    time.sleep(3.5)  # Whatever is going to arrive has arrived.
    seen = [spans for trace_id in ids if (spans := collector.trace(trace_id))]
    assert 5 <= len(seen) <= 35
    for spans in seen:
        assert {"sampled-envoy", "sampled-gateway"} <= {span.service for span in spans}


@pytest.fixture
def stopped_collector() -> Iterator[str]:
    """A collector in a process of its own that takes connections and answers nothing."""
    program = (
        "import sys, time; from tests.fakes.collector import CollectorFake\n"
        "print(CollectorFake().http_url, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        process.send_signal(signal.SIGSTOP)
        yield url
        process.kill()


async def test_a_collector_that_hangs_costs_nothing_but_the_spans_it_missed(
    start_suite: Callable[[str, Mapping[str, str]], RunningSuite], stopped_collector: str
) -> None:
    suite = start_suite(
        "up",
        {
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_ENDPOINT": stopped_collector,
            "WEAVER_TELEMETRY_QUEUE_SPANS": "200",
            "WEAVER_RATELIMIT_RPS": "1000",
            "WEAVER_RATELIMIT_BURST": "2000",
        },
    )
    slowest = 0.0
    async with http(suite) as client:
        for _ in range(150):
            begun = time.monotonic()
            answer = await client.post("/v1/chat/completions", json=chat())
            slowest = max(slowest, time.monotonic() - begun)
            assert answer.status_code == 200
        # As long as an export that hangs takes before it is given up.
        assert slowest < 1.0
        metrics = await httpx.AsyncClient().get(f"http://{suite.metrics['gateway']}/metrics")
    assert 'weaver_telemetry_spans_total{result="dropped"}' in metrics.text
    figures = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in metrics.text.splitlines()
        if line.startswith("weaver_telemetry_spans_total")
    }
    assert figures['weaver_telemetry_spans_total{result="sent"}'] == 0
    assert figures['weaver_telemetry_spans_total{result="dropped"}'] > 0
    begun = time.monotonic()
    suite.stop()
    assert time.monotonic() - begun < 15
