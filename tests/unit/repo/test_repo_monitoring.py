"""What rules and dashboards ask for exists, and what is shipped beside them fits together."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import prometheus_rules

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
METRICS = ROOT / "docs" / "operations" / "metrics.md"
RULES = sorted((DEPLOY / "prometheus").glob("*.rules.yaml"))
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.test.yaml"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
WORDS = {
    *("and", "or", "unless", "bool", "offset", "by", "on", "ignoring", "group_left", "without"),
    *("ALERTS", "time", "vector"),
}
GROUPING = re.compile(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)")
NAME = re.compile(r"(?<![\w:.$])([A-Za-z_:][A-Za-z0-9_:]*)(?![\w:]|\s*\()")


def rules(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def asked(expression: str) -> set[str]:
    """Return the metrics that an expression asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", re.sub(r'"[^"]*"', "", expression))
    bare = re.sub(r"offset\s+\w+", " ", GROUPING.sub(" ", bare))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in NAME.findall(bare)} - WORDS


def listed() -> set[str]:
    recorded = {rule["record"] for path in RULES for rule in rules(path) if "record" in rule}
    return set(re.findall(r"`([a-z0-9_]+)`", METRICS.read_text())) | recorded


def test_names_are_found_in_expressions() -> None:
    expression = 'sum by (le, job) (rate(a_total{b="c"}[5m] offset 1h)) / on (x) d_bucket > 3 * e:f'
    assert asked(expression) == {"a_total", "d", "e:f"}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_rule_asks_for_metrics_that_exist(path: Path) -> None:
    for rule in rules(path):
        unknown = asked(rule["expr"]) - listed()
        assert not unknown, f"{rule.get('alert', rule.get('record'))}: {unknown}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_every_panel_asks_for_metrics_that_exist(path: Path) -> None:
    dashboard = json.loads(path.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            unknown = asked(target["expr"]) - listed()
            assert not unknown, f"{panel['title']}: {unknown}"


def test_dashboards_load_without_edits() -> None:
    """What a file-provisioned dashboard needs: ids of its own, and a data source that exists."""
    found = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert {one["uid"] for one in found} == {path.stem for path in DASHBOARDS}
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    for one in found:
        assert "__inputs" not in one
        (variable,) = one["templating"]["list"]
        assert variable["query"] == source["type"]
        assert variable["current"]["value"] == source["uid"]
        ids = [panel["id"] for panel in one["panels"]]
        assert len(ids) == len(set(ids))
        for panel in one["panels"]:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            for target in panel.get("targets", []):
                assert target["datasource"]["uid"] == f"${{{variable['name']}}}"


def test_every_alert_is_tried_firing_and_silent() -> None:
    alerts = {rule["alert"] for path in RULES for rule in rules(path) if "alert" in rule}
    tried: dict[str, set[str]] = {}
    for path in TESTS:
        for case in yaml.safe_load(path.read_text())["tests"]:
            alert, _, what = case["name"].partition(" ")
            tried.setdefault(alert, set()).add(what)
    assert set(tried) == alerts
    for alert, kinds in tried.items():
        assert kinds == ({"fires"} if alert == "Watchdog" else {"fires", "keeps silent"}), alert


def test_alerts_say_how_bad_it_is_and_what_to_read() -> None:
    for path in RULES:
        for rule in rules(path):
            if "alert" in rule:
                assert rule["labels"]["severity"] in {"critical", "warning", "none"}
                assert {"summary", "description", "runbook_url"} == set(rule["annotations"])


def test_the_collectors_parts_fit_together() -> None:
    collector = yaml.safe_load((DEPLOY / "otel" / "collector.yaml").read_text())
    service = collector["service"]
    assert set(service["extensions"]) == set(collector["extensions"])
    used: dict[str, set[str]] = {"receivers": set(), "processors": set(), "exporters": set()}
    for pipeline in service["pipelines"].values():
        assert pipeline["processors"][0] == "memory_limiter"
        for kind, names in pipeline.items():
            used[kind] |= set(names)
    for kind, names in used.items():
        assert names == set(collector[kind]), kind
    protocols = collector["receivers"]["otlp"]["protocols"]
    assert protocols["grpc"]["endpoint"].endswith(":4317")
    assert protocols["http"]["endpoint"].endswith(":4318")
    queue = collector["exporters"]["otlp"]["sending_queue"]
    assert queue["storage"] == "file_storage"
    assert collector["extensions"]["file_storage"]["directory"].startswith("/var/lib/otelcol/")


def test_prometheus_scrapes_every_service_where_it_serves_its_metrics() -> None:
    from services.cli.deployment_secrets import STORES  # noqa: PLC0415 - this test alone
    from services.cli.ports import LISTEN_DEFAULTS  # noqa: PLC0415 - this test alone

    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    jobs = {job["job_name"]: job for job in configuration["scrape_configs"]}
    for name in ("gateway", "ratelimit", "model", "audit"):
        (looked_up,) = jobs[name]["dns_sd_configs"]
        port = int(LISTEN_DEFAULTS[f"WEAVER_{name.upper()}_METRICS_LISTEN"].rpartition(":")[2])
        assert looked_up["names"] == [name]
        assert looked_up["port"] == port
    stores = {f"redis://{host}:6379" for host in STORES}
    assert set(jobs["redis"]["static_configs"][0]["targets"]) == stores
    kept = jobs["envoy"]["metric_relabel_configs"][0]["regex"]
    asked_of_envoy = {
        name
        for path in RULES
        for rule in rules(path)
        for name in asked(rule["expr"])
        if name.startswith("envoy_")
    }
    assert asked_of_envoy
    for name in asked_of_envoy:
        assert re.fullmatch(kept, name), name


def test_the_operators_manifest_has_every_rule() -> None:
    made = prometheus_rules.manifest()
    assert made["apiVersion"] == "monitoring.coreos.com/v1"
    names = [
        rule.get("alert", rule.get("record"))
        for group in made["spec"]["groups"]
        for rule in group["rules"]
    ]
    wanted = [rule.get("alert", rule.get("record")) for path in RULES for rule in rules(path)]
    assert names == wanted
    groups = [group["name"] for group in made["spec"]["groups"]]
    assert len(groups) == len(set(groups))
