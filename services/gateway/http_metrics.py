"""Requests as HTTP clients see them, under the names that operators know, and what we add to them.

Everything is read from what is counted of each call anyway, when Prometheus asks. Routes are those
of the contract and statuses those of the table of errors, so labels are bounded, whatever callers
send. What Envoy refuses by itself never comes here; it has figures of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.interceptors.call_metrics import CallMetrics

OK: Final = 200
CLIENT_CLOSED_REQUEST: Final = 499
_OF_MODELS: Final = frozenset(
    f"/weaver.gateway.v1.GatewayService/{method}"
    for method in (
        *("ChatCompletions", "Responses", "Messages", "CountTokens", "Embeddings"),
        *("Generate", "GenerateStream"),
    )
)


class HTTPMetrics(Collector):
    """The gateway's requests.

    Args:
        registry: the service's.
        calls: what is counted of each call.
        services: full names of the services that are reached from outside.
    """

    def __init__(
        self, registry: CollectorRegistry, calls: CallMetrics, services: Iterable[str]
    ) -> None:
        """See the class."""
        self._calls = calls
        self._routes = routes(services)
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield what Prometheus asks for."""
        requests = CounterMetricFamily(
            "http_requests",
            "Requests that the gateway answered, by the HTTP status that clients see.",
            labels=("method", "route", "status"),
        )
        seconds = HistogramMetricFamily(
            "http_request_duration_seconds",
            "How long they took; upstream=model: a provider's time is in it.",
            labels=("route", "stream", "upstream"),
        )
        overhead = HistogramMetricFamily(
            "weaver_gateway_overhead_seconds",
            "What answered model calls took beyond the time that providers took.",
            labels=("stream",),
        )
        whole = streams = None
        for path, (verb, route) in self._routes.items():
            method = self._calls.methods.get(path)
            if method is None:
                continue
            statuses = {OK: method.codes.get("OK", 0), **method.http}
            statuses[CLIENT_CLOSED_REQUEST] = method.codes.get("CANCELLED", 0)
            for status, count in statuses.items():
                if count or status == OK:
                    requests.add_metric((verb, route, str(status)), count)
            upstream = "model" if path in _OF_MODELS else "none"
            method.whole.add_to(seconds, (route, "false", upstream))
            if path in _OF_MODELS:
                method.streams.add_to(seconds, (route, "true", upstream))
                unary, streaming = method.overhead
                whole = unary if whole is None else whole + unary
                streams = streaming if streams is None else streams + streaming
        if whole is not None and streams is not None:
            whole.add_to(overhead, ("false",))
            streams.add_to(overhead, ("true",))
        yield from (requests, seconds, overhead)


def routes(services: Iterable[str]) -> Mapping[str, tuple[str, str]]:
    """Return the HTTP method and path of each gRPC method; its own path where it has no other."""
    found = {}
    for name in services:
        for method in descriptor_pool.Default().FindServiceByName(name).methods:
            path = f"/{name}/{method.name}"
            rule = method.GetOptions().Extensions[annotations_pb2.http]
            verb = rule.WhichOneof("pattern")
            found[path] = (verb.upper(), getattr(rule, verb)) if verb else ("POST", path)
    return found
