"""The spans that wait for the collector: so many, and no more.

Ending a span appends it to a list; a thread of its own sends what has gathered. A collector that is
slow or gone lets the list fill, and what finds it full is dropped and counted. Nothing that serves
a call ever waits here.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

BATCH = 512
DELAY_S = 2.0
LAST_WORDS_S = 3.0
PATIENCE_S = 1.0


class SpanQueue(SpanProcessor, Collector):
    """Sends spans in batches, and counts what became of them.

    Args:
        exporter: sends a batch; it gives up by itself after a while.
        most: spans waiting at most.
        delay_s: how long a batch gathers at most.
    """

    def __init__(self, exporter: SpanExporter, most: int, delay_s: float = DELAY_S) -> None:
        """Begin."""
        self._exporter = exporter
        self._most = most
        self._delay_s = delay_s
        self._spans: deque[ReadableSpan] = deque()
        self._sent = self._failed = self._dropped = 0
        self._answers = True
        self._sending_since: float | None = None
        self._wake = threading.Event()
        self._end: float | None = None
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended, if there is room."""
        spans = self._spans
        if len(spans) >= self._most:
            self._dropped += 1
            return
        spans.append(span)
        if len(spans) >= BATCH and not self._wake.is_set():
            self._wake.set()

    def shutdown(self) -> None:
        """Send what is left, for a moment at most; blocks for as long.

        Nobody waits for a collector that did not take the last batch, or is long about this one.
        """
        since = self._sending_since
        hangs = since is not None and time.monotonic() - since > PATIENCE_S
        left_s = LAST_WORDS_S if self._answers and not hangs else 0.0
        self._end = time.monotonic() + left_s
        self._wake.set()
        self._thread.join(left_s)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the SDK's
        """Have the thread send what there is now."""
        self._wake.set()
        return True

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        spans = CounterMetricFamily(
            "weaver_telemetry_spans",
            "Spans by what became of them: sent, failed (the collector did not take them), dropped "
            "(the queue was full).",
            labels=("result",),
        )
        spans.add_metric(("sent",), self._sent)
        spans.add_metric(("failed",), self._failed)
        spans.add_metric(("dropped",), self._dropped)
        yield spans

    def _run(self) -> None:
        while self._end is None:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._send()
        self._send()
        self._dropped += len(self._spans)
        self._spans.clear()

    def _send(self) -> None:
        while self._spans and (self._end is None or time.monotonic() < self._end):
            batch = [self._spans.popleft() for _ in range(min(BATCH, len(self._spans)))]
            self._sending_since = time.monotonic()
            try:
                result = self._exporter.export(batch)
            except Exception:  # noqa: BLE001 - whatever it is, the next batch may succeed
                result = SpanExportResult.FAILURE
            self._sending_since = None
            self._answers = result is SpanExportResult.SUCCESS
            if self._answers:
                self._sent += len(batch)
            else:
                self._failed += len(batch)
