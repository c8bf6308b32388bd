"""Where spans go, how many wait, and who is sampled."""

import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client import CollectorRegistry

from services.common.otlp import endpoint
from services.common.settings import SettingsError
from services.common.span_queue import BATCH, SpanQueue
from services.common.telemetry import Tracing

PARENT = "00-{}-00f067aa0ba902b7-{}"


@pytest.mark.parametrize(
    ("url", "grpc", "traces"),
    [
        ("http://otel-collector:4317", True, "http://otel-collector:4317/v1/traces"),
        ("https://otel.example.com:4317", True, "https://otel.example.com:4317/v1/traces"),
        ("http://otel-collector:4318", False, "http://otel-collector:4318/v1/traces"),
        ("https://otel-prod.example.com", False, "https://otel-prod.example.com:443/v1/traces"),
        ("http://otel-collector", False, "http://otel-collector:80/v1/traces"),
        ("https://otel.example.com/team/", False, "https://otel.example.com:443/team/v1/traces"),
        ("http://c:4318/v1/traces", False, "http://c:4318/v1/traces"),
        ("http://[::1]:4318", False, "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_port_says_which_protocol_the_collector_speaks(
    url: str, grpc: bool, traces: str
) -> None:
    found = endpoint(url)
    assert found.grpc is grpc
    assert found.url("traces") == traces
    assert found.url("metrics") == traces.replace("traces", "metrics")


@pytest.mark.parametrize(
    "url",
    [
        "otel-collector:4317",
        "",
        "grpc://c:4317",
        "http://",
        "http://c:0",
        "http://c:x",
        "https://u:p@c",
    ],
)
def test_what_is_no_endpoint_is_refused_with_the_variables_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"WEAVER_TELEMETRY_ENDPOINT: .*OTLP over HTTP"):
        endpoint(url)


class Exporter(SpanExporter):
    """Takes spans when it is let."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken = 0
        self.result = SpanExportResult.SUCCESS

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.gate.wait(10)
        self.taken += len(spans)
        return self.result


def figures(queue: SpanQueue) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(queue)
    return {
        result: registry.get_sample_value("weaver_telemetry_spans_total", {"result": result}) or 0
        for result in ("sent", "failed", "dropped")
    }


def span(maker: Any) -> ReadableSpan:
    made = maker.start_span("s")
    made.end()
    assert isinstance(made, ReadableSpan)
    return made


def test_a_collector_that_hangs_costs_nothing_but_spans() -> None:
    """Spans wait in a bounded queue; what finds it full is dropped and counted."""
    exporter = Exporter()
    queue = SpanQueue(exporter, most=BATCH, delay_s=0.01)
    one = span(TracerProvider(shutdown_on_exit=False).get_tracer("t"))
    begun = time.monotonic()
    for _ in range(10 * BATCH):
        queue.on_end(one)
    assert time.monotonic() - begun < 1
    assert figures(queue)["dropped"] >= 8 * BATCH
    exporter.gate.set()
    queue.shutdown()
    counted = figures(queue)
    assert counted["sent"] == exporter.taken
    assert sum(counted.values()) == 10 * BATCH


def test_what_the_collector_refuses_is_counted() -> None:
    exporter = Exporter()
    exporter.gate.set()
    exporter.result = SpanExportResult.FAILURE
    queue = SpanQueue(exporter, most=10)
    queue.on_end(span(TracerProvider(shutdown_on_exit=False).get_tracer("t")))
    queue.shutdown()
    assert figures(queue) == {"sent": 0, "failed": 1, "dropped": 0}


def test_an_end_does_not_wait_for_a_collector_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.span_queue.LAST_WORDS_S", 0.1)
    exporter = Exporter()
    queue = SpanQueue(exporter, most=10, delay_s=0.01)
    queue.on_end(span(TracerProvider(shutdown_on_exit=False).get_tracer("t")))
    begun = time.monotonic()
    queue.shutdown()
    assert time.monotonic() - begun < 1
    exporter.gate.set()


@pytest.mark.parametrize(
    ("flags", "trusted", "callers_decide", "sampled"),
    [
        ("01", True, False, True),
        ("00", True, False, False),
        ("01", False, False, False),
        ("01", False, True, True),
        ("00", False, True, False),
    ],
)
def test_who_is_trusted_decides_what_is_sampled(
    flags: str, trusted: bool, callers_decide: bool, sampled: bool
) -> None:
    maker = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    tracing = Tracing(maker, ratio=0.0, callers_decide=callers_decide)
    metadata = [("traceparent", PARENT.format("ab" * 16, flags))]
    begun = tracing.begin("/s/M", metadata, trusted=trusted)
    assert (begun is not None) is sampled
    if begun is not None:
        assert f"{begun.span.get_span_context().trace_id:032x}" == "ab" * 16


@pytest.mark.parametrize(
    "header",
    ["", "00", PARENT.format("0" * 32, "01"), PARENT.format("AB" * 16, "01"), "ff-" + "a" * 52],
)
def test_a_malformed_trace_begins_a_new_one(header: str) -> None:
    maker = TracerProvider(shutdown_on_exit=False).get_tracer("t")
    begun = Tracing(maker).begin("/s/M", [("traceparent", header)], trusted=True)
    assert begun is not None
    assert re.fullmatch("[0-9a-f]{32}", f"{begun.span.get_span_context().trace_id:032x}")
    assert Tracing(maker).begin("/s/M", [], trusted=True, begins=False) is None
