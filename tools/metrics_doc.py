"""Write docs/operations/metrics.md: every metric, asked of the services themselves.

All four are built in this process, on ports of their own choosing and with everything switched on
that adds metrics, and their registries are read. `--check` fails when the page is another one.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from services.audit.witnesses.metrics import WitnessMetrics
from services.cli import development, together
from services.common.clock import SystemClock
from services.common.component import Component
from services.common.health import Health

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "operations" / "metrics.md"
HEAD = """\
# Metrics

Every service serves these at `/metrics` on its own port (gateway 9464, ratelimit 9465, model 9466,
audit 9467), in `weaver up` as in containers. Labels are bounded: a model, method or path that a
caller made up never becomes one. [Monitoring](monitoring.md) says which to look at.

This page is generated (`make metrics-doc`); `make check` compares it.
"""
FOREIGN = """
## From elsewhere

| metric | who exports it | what for |
|---|---|---|
| `agent_execution_duration_seconds` | nobody yet | reserved for the service that will run agents |
| `tool_executions_total` | nobody yet | reserved for the service that will run tools |
| `redis_up`, `redis_connected_clients`, `redis_connected_slaves`, `redis_instance_info`, \
`redis_memory_used_bytes`, `redis_memory_max_bytes` | redis_exporter | the store of the limits |
| `container_cpu_usage_seconds_total`, `container_memory_working_set_bytes` | the kubelet | \
recorded as `pod_cpu_usage` and `pod_memory_usage` |
| `kube_pod_container_resource_limits` | kube-state-metrics | how near a pod is to its limit |
| `envoy_http_downstream_rq_xx`, `envoy_http_downstream_rq_active`, \
`envoy_http_downstream_cx_active`, `envoy_server_days_until_first_cert_expiring` | Envoy \
(`WEAVER_ENVOY_METRICS_LISTEN`) | every reply, Envoy's own among them |
| `up` | Prometheus | whether a target answers |
| `otelcol_exporter_queue_size`, `otelcol_exporter_queue_capacity`, \
`otelcol_receiver_accepted_spans`, `otelcol_exporter_sent_spans`, \
`otelcol_exporter_send_failed_spans` | the Collector | its queues |
"""
SERVICES = ("gateway", "ratelimit", "model", "audit")


async def components(state: Path) -> dict[str, Component]:
    """Return the four services, built and served for a moment, everything switched on."""
    environment = {
        **{f"WEAVER_{name.upper()}_LISTEN": "127.0.0.1:0" for name in SERVICES},
        **{f"WEAVER_{name.upper()}_METRICS_LISTEN": "" for name in SERVICES},
        "WEAVER_STATE_DIR": str(state),
        "WEAVER_TELEMETRY_ENABLED": "true",
        "WEAVER_TELEMETRY_ENDPOINT": "http://127.0.0.1:9",
        "WEAVER_TELEMETRY_METRICS_SECONDS": "0",
        "WEAVER_MODEL_CACHE_ENABLED": "true",
        "WEAVER_MODEL_CACHE_ADDRESS": "127.0.0.1:9",
        "REDIS_UNIX_SOCKET": str(state / "nobody.sock"),
        "LOG_LEVEL": "ERROR",
    }
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    development.ensure_keys(state)
    environment |= development.defaults(environment, state, state)
    with patch.dict(os.environ, environment | kept, clear=True):
        hosted = await together.start()
        await hosted.stop()
    return {component.name: component for component in hosted.components}


def described(registry: CollectorRegistry) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Yield each metric with the names of its labels."""
    for collector in list(registry._collector_to_names):  # noqa: SLF001 - it offers no other way
        for family in collector.collect():
            if isinstance(collector, MetricWrapperBase):
                labels = collector._labelnames  # noqa: SLF001 - likewise
            else:
                labels = getattr(family, "_labelnames", ())
            yield family, tuple(labels)


def page(found: dict[str, Component]) -> str:
    """Return the page."""
    WitnessMetrics(found["audit"].metrics, Health(), SystemClock(), [])
    lines = [HEAD]
    everywhere = set.intersection(
        *({family.name for family, _ in described(one.metrics)} for one in found.values())
    )
    for title, name in (("Every service", "gateway"), *((f"`{one}`", one) for one in SERVICES)):
        lines += [f"## {title}\n", "| metric | kind | labels | what it says |", "|---|---|---|---|"]
        rows = {}
        for family, labels in described(found[name].metrics):
            if (family.name in everywhere) == (title == "Every service"):
                shown = f"{family.name}{SUFFIXES.get(family.type, '')}"
                names = ", ".join(f"`{label}`" for label in labels)
                rows[shown] = f"| `{shown}` | {family.type} | {names} | {family.documentation} |"
        lines += [*(rows[shown] for shown in sorted(rows)), ""]
    return "\n".join(lines).rstrip("\n") + "\n" + FOREIGN


SUFFIXES = {"counter": "_total", "info": "_info"}


def main() -> None:
    """Write the page, or with `--check` compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weaver-metrics-") as state:
        made = page(asyncio.run(components(Path(state))))
    if not chosen.check:
        PAGE.write_text(made)
    elif not PAGE.exists() or PAGE.read_text() != made:
        sys.exit(f"{PAGE.relative_to(ROOT)} is stale; run `make metrics-doc`")


if __name__ == "__main__":
    main()
