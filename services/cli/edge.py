"""Renders the one Envoy configuration, `deploy/envoy`, for this machine or for containers.

The template is YAML with `${name}` where a value goes in as JSON, which is YAML as well, so no
value can change the structure. It refuses to know what a route or a limit means: that stands in the
template, and docs/design/edge.md says why.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from services.cli import edge_tracing, own_replies
from services.cli.cors import cors_policy
from services.cli.own_replies import overwriting
from services.cli.settings import EdgeSettings, Target
from services.common.files import replace_file
from services.common.settings import split_address

PACKAGED = Path(__file__).parent / "envoy_config"
SOURCE = Path(__file__).resolve().parents[2] / "deploy" / "envoy"
CONTAINER_DIRECTORY = Path("/etc/envoy")
CONFIGURATION = "envoy.yaml"
DESCRIPTOR_SET = "weaver.binpb"

MARGIN_S = 2.0
"""How much longer Envoy waits than the gateway, so that the gateway's own answer wins."""

SILENCE_MARGIN_S = 30.0
"""The same for a call that says nothing: a stream that waits, or a long answer that is not one."""

BUFFER_SLACK = 64 * 1024
"""Room in the buffer beyond the largest body, so that the transcoder's limit is what refuses."""

OURS = ("x-weaver-", "x-envoy-")
_READABLE = 0o644
TURNED_AWAY = "weaver.turned_away_percent"
"""The runtime key of how many in a hundred requests are refused at the door."""

FORWARDED = ("x-original-", "x-ssl-client-", "x-http-method", "x-forwarded-")
"""How headers begin in which proxies speak of a caller, or of another path or method."""
FORWARDED_NAMES = (
    "forwarded|via|x-real-ip|x-client-ip|true-client-ip|x-rewrite-url|x-method-override",
    "cf-connecting-ip|fastly-client-ip|x-cluster-client-ip|x-client-cert|x-host",
)
"""The same, whole names; Envoy takes no longer patterns."""
BLOCK = re.compile(r"^ *#\{ (\w+)\n(.*?)^ *#\}\n", re.MULTILINE | re.DOTALL)

RESPONSE_HEADERS = {
    "request-id": "%REQ(x-request-id)%",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
}
ACCESS_LOG = {
    "event": "edge.request",
    "timestamp": "%START_TIME%",
    "request_id": "%REQ(x-request-id)%",
    "reply_id": "%RESP(x-request-id)%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "protocol": "%PROTOCOL%",
    "method": "%REQ(x-envoy-original-method?:method)%",
    "path": "%PATH(NQ:ORIG)%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "reason": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
}


def source_directory() -> Path:
    """Return where the template lies: in the wheel, or in the tree of an editable install."""
    return PACKAGED if PACKAGED.is_dir() else SOURCE


def descriptor_set() -> Path:
    """Return the file that tells the transcoder of our contracts."""
    import weaver  # noqa: PLC0415 - generated; only looked at for its place

    return Path(next(iter(weaver.__path__))) / DESCRIPTOR_SET


def render(settings: EdgeSettings, target: Target, directory: Path) -> dict[str, str]:
    """Return the text of each file of the configuration.

    Args:
        settings: what differs between deployments.
        target: whether the gateway is behind a Unix socket here or mutual TLS elsewhere.
        directory: where the files will lie when Envoy reads them.

    Raises:
        SettingsError: an address is not of its form.
    """
    tls = settings.tls_path.absolute()
    certificate = settings.front_certificate or str(tls / "front.pem")
    key = settings.front_key or str(tls / "front-key.pem")
    files = {
        CONFIGURATION: _fill(
            CONFIGURATION, _values(settings, target, directory), _conditions(settings, target)
        ),
        "front-secret.yaml": _certificate("front", certificate, key),
    }
    if target == "container" or settings.address_rps:
        files["client-secret.yaml"] = _certificate(
            "envoy", str(tls / "envoy.pem"), str(tls / "envoy-key.pem")
        )
        files["ca-secret.yaml"] = _fill(
            "ca.yaml", {"name": "ca", "ca": str(tls / "ca.pem"), "directory": str(tls)}
        )
    return files


def write(files: Mapping[str, str], directory: Path) -> Path:
    """Write the files of a configuration, the descriptor set too; return the main one's path.

    Each is there whole or not at all, and the main one last: an Envoy that starts meanwhile fails
    and is started again, instead of taking half of it for good.
    """
    directory.mkdir(parents=True, exist_ok=True)
    replace_file(directory / DESCRIPTOR_SET, descriptor_set().read_bytes(), _READABLE)
    for name in sorted(files, key=CONFIGURATION.__eq__):
        replace_file(directory / name, files[name].encode(), _READABLE)
    return directory / CONFIGURATION


def _read(name: str) -> str:
    return (source_directory() / name).read_text()


def _certificate(name: str, certificate: str, key: str) -> str:
    directory = str(Path(certificate).parent)
    values = {"name": name, "certificate": certificate, "key": key, "directory": directory}
    return _fill("secret.yaml", values)


def _fill(
    template: str, values: Mapping[str, Any], conditions: frozenset[str] = frozenset()
) -> str:
    text = _read(template)
    text = BLOCK.sub(lambda block: block[2] if block[1] in conditions else "", text)
    return Template(text).substitute({name: json.dumps(value) for name, value in values.items()})


def _conditions(settings: EdgeSettings, target: Target) -> frozenset[str]:
    optional = {
        "metrics": settings.metrics_listen,
        "addresses": settings.address_rps,
        "cors": settings.cors_origins,
        "nowhere": settings.address_rps or settings.cors_origins,
        "traces": settings.telemetry_enabled,
    }
    chosen = {name for name, value in optional.items() if value}
    several = target == "container" or settings.gateway_workers > 1
    chosen |= {"several"} if several else set()
    return frozenset({"unix" if target == "local" else "mtls", *chosen})


def _values(settings: EdgeSettings, target: Target, directory: Path) -> dict[str, Any]:
    front_host, front_port = split_address(settings.front_listen, "WEAVER_FRONT_LISTEN")
    admin_host, admin_port = split_address(settings.admin_listen, "WEAVER_ENVOY_ADMIN_LISTEN")
    metrics_host, metrics_port = split_address(
        settings.metrics_listen or "127.0.0.1:0", "WEAVER_ENVOY_METRICS_LISTEN"
    )
    gateway_host, gateway_port = split_address(
        settings.gateway_address, "WEAVER_GATEWAY_EDGE_ADDRESS"
    )
    ratelimit_host, ratelimit_port = split_address(
        settings.ratelimit_address, "WEAVER_RATELIMIT_ADDRESS"
    )
    silence_s = max(settings.stream_idle_timeout_ms, settings.request_timeout_ms) / 1000
    silence_s += SILENCE_MARGIN_S
    buffer = settings.request_max_bytes + BUFFER_SLACK
    traces = settings.telemetry_enabled
    return {
        "traces_provider": edge_tracing.provider(settings) if traces else None,
        "collector_cluster": edge_tracing.cluster(settings) if traces else None,
        "front_host": front_host,
        "front_port": front_port,
        "admin_host": admin_host,
        "admin_port": admin_port,
        "metrics_host": metrics_host,
        "metrics_port": metrics_port,
        "gateway_host": gateway_host,
        "gateway_port": gateway_port,
        "ratelimit_host": ratelimit_host,
        "ratelimit_port": ratelimit_port,
        "gateway_sockets": [_pipe(listen) for listen in settings.edge_listens],
        "front_secret": str(directory / "front-secret.yaml"),
        "client_secret": str(directory / "client-secret.yaml"),
        "ca_secret": str(directory / "ca-secret.yaml"),
        "descriptor_set": str(directory / DESCRIPTOR_SET),
        "error_body_lua": _read("error_body.lua"),
        "own_replies": own_replies.mappers(_read("own_replies.json"), RESPONSE_HEADERS),
        "response_headers": [{"append": header} for header in overwriting(RESPONSE_HEADERS)],
        "turned_away_key": TURNED_AWAY,
        "access_log_fields": ACCESS_LOG,
        "access_log_filter": _access_log_filter(target),
        "outside_headers": _removed(settings),
        "trusted_hops": settings.trusted_hops,
        "cors": cors_policy(settings.cors_origins),
        "idle_timeout": _seconds(settings.idle_timeout_s),
        "max_requests": settings.max_requests,
        "max_connections": settings.max_connections,
        "max_heap_bytes": settings.max_heap_bytes,
        "max_request_bytes": settings.request_max_bytes,
        "max_body_buffer_bytes": buffer,
        "max_response_bytes": buffer,
        "request_timeout": _seconds(settings.request_timeout_ms / 1000 + MARGIN_S),
        "stream_idle_timeout": _seconds(silence_s),
        "upload_timeout": _seconds(settings.upload_timeout_s),
        "drain_timeout": _seconds(settings.drain_seconds),
    }


def _removed(settings: EdgeSettings) -> list[dict[str, Any]]:
    """Return how to remove what nobody outside may say; trusted proxies say who the caller is."""
    prefixes = OURS + (FORWARDED[:-1] if settings.trusted_hops else FORWARDED)
    matches: list[dict[str, Any]] = [{"prefix": prefix} for prefix in prefixes]
    matches += [{"safe_regex": {"regex": f"^({names})$"}} for names in FORWARDED_NAMES]
    return [{"remove_on_match": {"key_matcher": match}} for match in matches]


def _pipe(listen: str) -> dict[str, Any]:
    return {"endpoint": {"address": {"pipe": {"path": listen.removeprefix("unix:")}}}}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _access_log_filter(target: Target) -> dict[str, Any]:
    """Log every request where a collector reads it; here only what Envoy answered itself."""
    if target == "container":
        return {"not_health_check_filter": {}}
    return {"response_flag_filter": {}}
