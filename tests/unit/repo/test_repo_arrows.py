"""Who may speak with whom: the policies of Kubernetes are the arrows of the design, both ends."""

from typing import Any

import pytest

from tests.fakes import manifests
from tests.fakes.manifests import OVERLAYS

Arrow = tuple[str, str, int]

STORE = [
    (caller, store, port)
    for caller in ("gateway", "ratelimit", "redis", "redis-sentinel")
    for store, port in (("redis", 6379), ("redis-sentinel", 26379))
]
ARROWS: set[Arrow] = {
    ("envoy", "gateway", 8004),
    # Envoy asks the limiter for source addresses where WEAVER_RATELIMIT_ADDRESS_RPS is set.
    ("envoy", "ratelimit", 8001),
    ("gateway", "ratelimit", 8001),
    ("gateway", "model", 8002),
    ("gateway", "audit", 8003),
    ("ratelimit", "audit", 8003),
    ("model", "audit", 8003),
    *STORE,
}
INTO: set[Arrow] = {
    ("anyone", "envoy", 8443),
    ("clients", "gateway", 8000),
    ("monitoring", "envoy", 9902),
    ("monitoring", "gateway", 9464),
    ("monitoring", "ratelimit", 9465),
    ("monitoring", "model", 9466),
    ("monitoring", "audit", 9467),
    ("monitoring", "redis", 6379),
}
OUT_OF: set[Arrow] = {
    ("model", "internet", 443),
    *(
        (service, "monitoring", port)
        for service in ("envoy", "gateway", "ratelimit", "model", "audit")
        for port in (4317, 4318)
    ),
}
BACKUP: set[Arrow] = {("backup", "redis", 6379), ("backup", "redis-sentinel", 26379)}
BACKUP_OUT_OF: set[Arrow] = {
    (name, "internet", 443) for name in ("backup", "audit", "recovery-drill")
}
WITH_BACKUP = {"production"}


def peer(selector: dict[str, Any], namespace: str) -> str:
    """Return the name of one end of an arrow."""
    if "ipBlock" in selector:
        block = selector["ipBlock"]
        assert block["cidr"] == "0.0.0.0/0"
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
            block["except"]
        )
        return "internet"
    labels = selector.get("namespaceSelector", {}).get("matchLabels", {})
    if labels == {"weaver.ai/client": "true"}:
        return "clients"
    other = labels.get("kubernetes.io/metadata.name", namespace)
    if "podSelector" not in selector:
        assert other == "monitoring"
        return "monitoring"
    name: str = selector["podSelector"]["matchLabels"]["app"]
    assert other == ("weaver-audit" if name == "audit" else "weaver-ai")
    return name


def arrows(overlay: str, direction: str) -> set[Arrow]:
    """Return the arrows that the policies of one direction allow, caller first."""
    found: set[Arrow] = set()
    for policy in manifests.kind(overlay, "NetworkPolicy"):
        name = policy["metadata"]["name"]
        if name in {"default-deny", "names"}:
            continue
        namespace = policy["metadata"]["namespace"]
        specification = policy["spec"]
        selected = specification["podSelector"]["matchLabels"]["app"]
        assert specification["podSelector"] == {"matchLabels": {"app": selected}}
        if name == selected:
            assert specification["policyTypes"] == ["Ingress", "Egress"]
        else:
            # It adds to the workload's own.
            assert name.startswith(f"{selected}-"), name
        key, side = ("ingress", "from") if direction == "into" else ("egress", "to")
        for rule in specification.get(key, ()):
            others = [peer(one, namespace) for one in rule.get(side, ())] or ["anyone"]
            for other in others:
                for port in rule["ports"]:
                    assert port["protocol"] == "TCP"
                    ends = (other, selected) if direction == "into" else (selected, other)
                    found.add((*ends, port["port"]))
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_take_calls_along_the_arrows_of_the_design_and_no_others(overlay: str) -> None:
    more = BACKUP if overlay in WITH_BACKUP else set()
    assert arrows(overlay, "into") == ARROWS | INTO | more


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_make_calls_along_the_arrows_of_the_design_and_no_others(overlay: str) -> None:
    more = BACKUP | BACKUP_OUT_OF if overlay in WITH_BACKUP else set()
    assert arrows(overlay, "out of") == ARROWS | OUT_OF | more


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("namespace", ["weaver-ai", "weaver-audit"])
def test_what_no_arrow_allows_is_denied(overlay: str, namespace: str) -> None:
    policies = {
        one["metadata"]["name"]: one["spec"]
        for one in manifests.kind(overlay, "NetworkPolicy")
        if one["metadata"]["namespace"] == namespace
    }
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["names"]["policyTypes"] == ["Egress"]
    (rule,) = policies["names"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {53}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_workload_and_job_has_a_policy(overlay: str) -> None:
    apps = {
        (one["metadata"]["namespace"], manifests.pod_labels(one)["app"])
        for one in manifests.kind(overlay, *manifests.WORKLOADS, "CronJob")
    }
    policies = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in manifests.kind(overlay, "NetworkPolicy")
    }
    assert apps <= policies
