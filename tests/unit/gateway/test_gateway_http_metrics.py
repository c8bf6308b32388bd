"""What is counted of calls, as operators know it."""

from prometheus_client import CollectorRegistry

from services.common.interceptors.call_metrics import CallMetrics
from services.gateway.http_metrics import HTTPMetrics, routes
from weaver.gateway.v1 import gateway_service_pb2

GATEWAY = gateway_service_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name
CHAT = f"/{GATEWAY}/ChatCompletions"
ROUTE = "/v1/chat/completions"


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_each_method_has_the_route_of_its_contract() -> None:
    found = routes([GATEWAY])
    assert found[CHAT] == ("POST", ROUTE)
    assert found[f"/{GATEWAY}/GetModel"] == ("GET", "/v1/models/{id=**}")
    assert found[f"/{GATEWAY}/Generate"] == ("POST", f"/{GATEWAY}/Generate")


def test_requests_are_counted_by_the_status_that_clients_see() -> None:
    registry = CollectorRegistry()
    calls = CallMetrics(registry)
    HTTPMetrics(registry, calls, [GATEWAY])
    method = calls.of(CHAT)
    method.observe("OK", 0.2, (False, 0.19))
    method.observe("INVALID_ARGUMENT", 0.001)
    method.failed(413)
    method.observe("CANCELLED", 0.5)
    calls.of("/somebody.elses/Method").observe("OK", 1.0)
    for status, count in (("200", 1), ("413", 1), ("499", 1)):
        labels = {"method": "POST", "route": ROUTE, "status": status}
        assert value(registry, "http_requests_total", **labels) == count
    names = {
        s.labels["route"] for f in registry.collect() for s in f.samples if "route" in s.labels
    }
    assert names == {ROUTE}


def test_what_we_add_is_measured_apart_from_the_providers_time_and_streams_apart() -> None:
    registry = CollectorRegistry()
    calls = CallMetrics(registry)
    HTTPMetrics(registry, calls, [GATEWAY])
    calls.of(CHAT).observe("OK", 3.0, (False, 2.996))
    calls.of(CHAT).observe("OK", 30.0, (True, 29.0))
    name = "weaver_gateway_overhead_seconds"
    assert value(registry, f"{name}_bucket", stream="false", le="0.005") == 1
    assert value(registry, f"{name}_sum", stream="true") == 1.0
    took = {"route": ROUTE, "upstream": "model"}
    name = "http_request_duration_seconds"
    assert value(registry, f"{name}_sum", stream="false", **took) == 3.0
    assert value(registry, f"{name}_count", stream="true", **took) == 1
    assert value(registry, "grpc_server_handling_seconds_sum", grpc_method=CHAT) == 33.0
