"""The parts of Envoy's configuration that are about traces: who decides, and where spans go.

They depend on the collector's address in more ways than a template can say.
"""

import os
from typing import Any, Final

from services.cli.settings import EdgeSettings
from services.common.otlp import Endpoint, endpoint, resource

CLUSTER: Final = "collector"
_SYSTEM_CA: Final = "/etc/ssl/certs/ca-certificates.crt"
_TYPE: Final = "type.googleapis.com/envoy"
_TIMEOUT: Final = "3s"
_MOST_PENDING: Final = 16


def provider(settings: EdgeSettings) -> dict[str, Any]:
    """Return what makes the spans and sends them.

    Raises:
        SettingsError: the endpoint is not one.
    """
    where = endpoint(settings.telemetry_endpoint)
    about = resource(settings, "envoy")
    name = about.pop("service.name")
    # Whoever renders this is not the process that will run with it.
    del about["service.instance.id"]
    kind = f"{_TYPE}.extensions.tracers.opentelemetry.resource_detectors.v3"
    detector = {"@type": f"{kind}.StaticConfigResourceDetectorConfig", "attributes": about}
    return {
        "@type": f"{_TYPE}.config.trace.v3.OpenTelemetryConfig",
        "service_name": name,
        "resource_detectors": [
            {
                "name": "envoy.tracers.opentelemetry.resource_detectors.static_config",
                "typed_config": detector,
            }
        ],
        "sampler": _sampler(settings),
        "max_cache_size": settings.telemetry_queue_spans,
        **_service(where),
    }


def cluster(settings: EdgeSettings) -> dict[str, Any]:
    """Return how the collector is reached."""
    where = endpoint(settings.telemetry_endpoint)
    address = {"socket_address": {"address": where.host, "port_value": where.port}}
    found: dict[str, Any] = {
        "name": CLUSTER,
        "connect_timeout": "1s",
        # A collector that is slow holds so many calls and no more.
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 2,
                    "max_pending_requests": _MOST_PENDING,
                    "max_requests": _MOST_PENDING,
                    "max_retries": 0,
                }
            ]
        },
        "cluster_type": {
            "name": "envoy.clusters.dns",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.clusters.dns.v3.DnsCluster",
                "dns_refresh_rate": "5s",
                "respect_dns_ttl": True,
                "dns_lookup_family": "V4_PREFERRED",
            },
        },
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if where.grpc:
        options = f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions"
        alive = {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": alive},
            }
        }
    if where.secure:
        found["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": where.host,
                "auto_sni_san_validation": True,
                "common_tls_context": {
                    **({"alpn_protocols": ["h2"]} if where.grpc else {}),
                    "validation_context": {"trusted_ca": {"filename": _authority()}},
                },
            },
        }
    return found


def _service(where: Endpoint) -> dict[str, Any]:
    if where.grpc:
        return {"grpc_service": {"envoy_grpc": {"cluster_name": CLUSTER}, "timeout": _TIMEOUT}}
    uri = {"uri": where.url("traces"), "cluster": CLUSTER, "timeout": _TIMEOUT}
    return {"http_service": {"http_uri": uri}}


def _sampler(settings: EdgeSettings) -> dict[str, Any]:
    samplers = f"{_TYPE}.extensions.tracers.opentelemetry.samplers.v3"
    share = {
        "name": "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based",
        "typed_config": {
            "@type": f"{samplers}.TraceIdRatioBasedSamplerConfig",
            "sampling_percentage": {
                "numerator": round(settings.telemetry_sample_ratio * 1_000_000),
                "denominator": "MILLION",
            },
        },
    }
    if not settings.telemetry_callers_decide:
        return share
    return {
        "name": "envoy.tracers.opentelemetry.samplers.parent_based",
        "typed_config": {
            "@type": f"{samplers}.ParentBasedSamplerConfig",
            "wrapped_sampler": share,
        },
    }


def _authority() -> str:
    return os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE") or _SYSTEM_CA
