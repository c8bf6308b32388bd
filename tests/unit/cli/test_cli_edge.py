"""The rendered Envoy configuration: complete, closed, and the same for every deployment."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from services.cli import edge
from services.cli.settings import EdgeSettings, Target
from services.common.files import replace_file
from services.common.settings import SettingsError

PUBLIC_SERVICES = {"GatewayService", "AuditReaderService", "AuditAdminService", "AdminService"}
STREAMS = {"ChatCompletions", "Responses", "Messages", "GenerateStream"}


def rendered(target: Target = "local", **overrides: object) -> dict[str, str]:
    values = {"edge_listen": "unix:/run/gw", "tls_dir": Path("/tls"), **overrides}
    return edge.render(EdgeSettings.for_target(target, **values), target, Path("/conf"))


def configuration(target: Target = "local", **overrides: object) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(rendered(target, **overrides)["envoy.yaml"])
    return loaded


def front_manager(target: Target = "local", **overrides: object) -> dict[str, Any]:
    [front, *_] = configuration(target, **overrides)["static_resources"]["listeners"]
    manager: dict[str, Any] = front["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def public_methods() -> dict[str, tuple[str, str]]:
    """Return each public RPC with its HTTP method and path."""
    image = descriptor_pb2.FileDescriptorSet.FromString(edge.descriptor_set().read_bytes())
    methods = {}
    for file in image.file:
        for service in file.service:
            if service.name in PUBLIC_SERVICES:
                for method in service.method:
                    rule = method.options.Extensions[annotations_pb2.http]
                    path = f"/{file.package}.{service.name}/{method.name}"
                    methods[path] = (rule.WhichOneof("pattern") or "", rule.get or rule.post)
    return methods


def test_every_public_method_has_a_route_and_nothing_else_has() -> None:
    routes = front_manager()["route_config"]["virtual_hosts"][0]["routes"]
    assert sorted(route["match"]["path"] for route in routes) == sorted(public_methods())


def test_only_streams_have_no_time_limit() -> None:
    for route in front_manager()["route_config"]["virtual_hosts"][0]["routes"]:
        stream = route["match"]["path"].rpartition("/")[2] in STREAMS
        assert (route["route"]["timeout"] == "0s") == stream


def test_envoy_waits_longer_than_the_gateway() -> None:
    manager = front_manager(request_timeout_ms=40_000, stream_idle_timeout_ms=50_000)
    routes = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert routes[-1]["route"]["timeout"] == "42.000s"
    assert routes[0]["route"]["idle_timeout"] == manager["stream_idle_timeout"] == "80.000s"


@pytest.mark.parametrize(("verb", "path"), [rule for rule in public_methods().values() if rule[0]])
def test_every_public_path_is_known_to_the_405_reply(verb: str, path: str) -> None:
    example = re.sub(r"\{\w+=\*\*\}", "x/y", re.sub(r"\{\w+\}", "x", path))
    replies = json.loads((edge.source_directory() / "own_replies.json").read_text())
    first = next(r for r in replies if re.fullmatch(r.get("path", "(?!)"), example))
    assert first["becomes"] == 405
    assert verb.upper() in first["headers"]["allow"].split(", ")


@pytest.mark.parametrize("target", ["local", "container"])
def test_the_admin_interface_stays_on_loopback(target: Target) -> None:
    address = configuration(target)["admin"]["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": 9901}


def test_both_targets_share_the_front_door() -> None:
    local, container = front_manager("local"), front_manager("container")
    differing = {key for key in local if local[key] != container[key]}
    assert differing <= {"access_log", "http_filters"}
    assert [f["name"] for f in local["http_filters"]] == [
        f["name"] for f in container["http_filters"]
    ]


def test_on_one_machine_the_gateway_is_a_unix_socket() -> None:
    [gateway] = configuration("local")["static_resources"]["clusters"]
    endpoint = gateway["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"] == {"pipe": {"path": "/run/gw"}}
    assert "transport_socket" not in gateway


def test_elsewhere_the_gateway_must_show_its_name() -> None:
    gateway, _ = configuration("container")["static_resources"]["clusters"]
    context = gateway["transport_socket"]["typed_config"]["common_tls_context"]
    names = context["combined_validation_context"]["default_validation_context"]
    [name] = names["match_typed_subject_alt_names"]
    assert name == {"san_type": "URI", "matcher": {"exact": "spiffe://weaver/gateway"}}


def test_the_metrics_listener_serves_two_paths_by_get() -> None:
    _, metrics = configuration("container")["static_resources"]["listeners"]
    manager = metrics["filter_chains"][0]["filters"][0]["typed_config"]
    matches = [route["match"] for route in manager["route_config"]["virtual_hosts"][0]["routes"]]
    assert [match["path"] for match in matches] == ["/metrics", "/ready"]
    assert all(match["headers"][0]["string_match"] == {"exact": "GET"} for match in matches)


def test_a_proxy_in_front_is_believed_only_when_told() -> None:
    def stripped(manager: dict[str, Any], header: str) -> bool:
        extension = manager["early_header_mutation_extensions"][1]["typed_config"]
        matchers = [m["remove_on_match"]["key_matcher"] for m in extension["mutations"]]
        return any(
            header.startswith(matcher.get("prefix", "\0"))
            or re.fullmatch(matcher.get("safe_regex", {}).get("regex", "\0"), header) is not None
            for matcher in matchers
        )

    assert stripped(front_manager(), "x-forwarded-for")
    behind = front_manager(trusted_hops=1)
    assert behind["xff_num_trusted_hops"] == 1
    assert not stripped(behind, "x-forwarded-for")
    assert stripped(behind, "x-weaver-subject")
    assert stripped(behind, "x-real-ip")


def test_browsers_are_let_in_only_where_a_setting_names_their_pages() -> None:
    assert "filters.http.cors" not in rendered()["envoy.yaml"]
    [host] = front_manager(cors_origins=("https://app.example",))["route_config"]["virtual_hosts"]
    policy = host["typed_per_filter_config"]["cors"]
    assert policy["allow_origin_string_match"] == [{"exact": "https://app.example"}]
    assert "allow_credentials" not in policy


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "null", "HTTPS://A", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match="WEAVER_EDGE_CORS_ORIGINS"):
        rendered(cors_origins=(origin,))


def test_production_names_the_pages_that_may_call() -> None:
    with pytest.raises(SettingsError, match="WEAVER_EDGE_CORS_ORIGINS: production"):
        rendered(cors_origins=("*",), environment="production")


def test_a_value_cannot_change_the_structure() -> None:
    path = '/x"}, admin: {evil: "\n\n- ${front_port}'
    [gateway] = configuration(edge_listen=f"unix:{path}")["static_resources"]["clusters"]
    endpoint = gateway["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["pipe"]["path"] == path


def test_a_bad_address_is_named() -> None:
    with pytest.raises(SettingsError, match="WEAVER_FRONT_LISTEN"):
        rendered(front_listen="8443")


def test_files_are_written_where_the_configuration_looks_for_them(tmp_path: Path) -> None:
    settings = EdgeSettings.for_target("container")
    files = edge.render(settings, "container", tmp_path)
    main = edge.write(files, tmp_path)
    named = set(re.findall(rf'"{re.escape(str(tmp_path))}/([^"]+)"', main.read_text()))
    assert named == {path.name for path in tmp_path.iterdir()} - {"envoy.yaml"}


def test_a_write_that_breaks_off_leaves_the_configuration_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise: an Envoy that starts while files are written never takes half a configuration."""
    main = edge.write(rendered(), tmp_path)
    before = main.read_text()
    written: list[str] = []

    def full(path: Path, data: bytes, mode: int) -> None:
        if path == main:
            raise OSError(28, "No space left on device")
        written.append(path.name)
        replace_file(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr("services.cli.edge.replace_file", full)
        with pytest.raises(OSError, match="space"):
            edge.write(rendered(max_requests=7), tmp_path)
    assert main.read_text() == before
    assert written == [edge.DESCRIPTOR_SET, *sorted(set(rendered()) - {main.name})]
    edge.write(rendered(max_requests=7), tmp_path)
    assert main.read_text() == rendered(max_requests=7)[main.name] != before
