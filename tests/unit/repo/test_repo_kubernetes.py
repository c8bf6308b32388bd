"""The manifests of Kubernetes: valid, safe, and of one mind with the services."""

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.audit.settings import AuditSettings
from services.cli.settings import EdgeSettings
from services.common.settings import CommonSettings, load
from services.gateway.settings import GatewaySettings
from services.model.settings import ModelSettings
from services.ratelimit.settings import RatelimitSettings
from tests.fakes import manifests
from tests.fakes.manifests import OVERLAYS, SERVICES

RELEASES = ("1.28", "1.37")
SETTINGS: dict[str, type[CommonSettings]] = {
    "gateway": GatewaySettings,
    "ratelimit": RatelimitSettings,
    "model": ModelSettings,
    "audit": AuditSettings,
}
# These have no schema in Kubernetes itself: cert-manager, Prometheus, External and Sealed Secrets.
EXTENSIONS = {
    "Certificate": "cert-manager.io/v1",
    "ClusterIssuer": "cert-manager.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "ExternalSecret": "external-secrets.io/v1",
    "SecretStore": "external-secrets.io/v1",
    "SealedSecret": "bitnami.com/v1alpha1",
}
PORTS = {"gateway": 8000, "ratelimit": 8001, "model": 8002, "audit": 8003}
METRICS = {"gateway": 9464, "ratelimit": 9465, "model": 9466, "audit": 9467, "envoy": 9902}
HEALTH = {"gateway": 9474, "ratelimit": 9475, "model": 9476, "audit": 9477}
WORKLOADS = (*SERVICES, "envoy", "redis", "redis-sentinel")
POD_NAME = "statefulset.kubernetes.io/pod-name"
NAMES_LATE_S = 30
"""How long CoreDNS, as most clusters have it, keeps what it knows of names."""


def aliases(kind: type[CommonSettings]) -> set[str]:
    return {str(field.validation_alias) for field in kind.model_fields.values()}


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_valid_for_the_oldest_and_a_current_release(release: str) -> None:
    different = {
        json.dumps(manifest, sort_keys=True): manifest
        for overlay in OVERLAYS
        for manifest in manifests.render(overlay)
    }
    for manifest in different.values():
        if manifest["kind"] in EXTENSIONS:
            assert manifest["apiVersion"] == EXTENSIONS[manifest["kind"]]
        else:
            kubernetes_validate.validate(manifest, release, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_manifest_is_there_twice(overlay: str) -> None:
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in manifests.render(overlay)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_pods_are_restricted_and_their_file_systems_cannot_be_written(
    overlay: str, name: str
) -> None:
    workload = manifests.workload(overlay, name)
    pod = manifests.pod(workload)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == name
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in manifests.containers(workload):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}
        assert ":" in container["image"].rpartition("/")[2]
        assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_namespaces_enforce_the_restricted_standard(overlay: str) -> None:
    namespaces = {one["metadata"]["name"]: one for one in manifests.kind(overlay, "Namespace")}
    assert namespaces.keys() == {"weaver-ai", "weaver-audit"}
    for namespace in namespaces.values():
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_is_one_that_a_service_reads(overlay: str, service: str) -> None:
    own = aliases(SETTINGS[service])
    anybody = set[str]().union(*(aliases(kind) for kind in SETTINGS.values()))
    container = manifests.container(overlay, service)
    for variable in container.get("env", ()):
        assert variable["name"].removesuffix("_FILE") in own, variable["name"]
    for variable in manifests.environment(overlay, service):
        assert variable.removesuffix("_FILE") in anybody, variable


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", SERVICES)
def test_the_services_start_with_what_the_manifests_set(
    overlay: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WEAVER_STATE_DIR", "WEAVER_TLS_DIR", "ENVIRONMENT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in (
        *image_defaults(service).items(),
        *manifests.environment(overlay, service).items(),
    ):
        if variable.endswith("_FILE"):
            mounted = tmp_path / variable
            mounted.write_text(f"made-up-value-of-{variable.lower()}")
            monkeypatch.setenv(variable, str(mounted))
        else:
            monkeypatch.setenv(variable, value)
    settings = load(SETTINGS[service])
    expected = {"dev": "development"}.get(overlay, overlay)
    assert settings.environment == expected


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_envoy_is_configured_by_what_its_settings_know(overlay: str) -> None:
    container = manifests.containers(manifests.workload(overlay, "envoy"))[0]
    assert {variable["name"] for variable in container["env"]} <= aliases(EdgeSettings)
    assert container["args"][:4] == ["envoy", "render", "--target", "container"]


def image_defaults(service: str) -> dict[str, str]:
    """Return the variables that the image of a service sets."""
    text = (manifests.ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    stage = text.split(f" AS {service}\n", 1)[1].split("\nFROM ", 1)[0]
    lines = stage.replace("\\\n", " ").splitlines()
    words = " ".join(line.removeprefix("ENV ") for line in lines if line.startswith("ENV "))
    return dict(word.split("=", 1) for word in words.split())


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", SERVICES)
def test_ports_and_probes_are_those_that_the_image_listens_on(overlay: str, service: str) -> None:
    defaults = image_defaults(service)
    container = manifests.container(overlay, service)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    prefix = f"WEAVER_{service.upper()}"
    listens = {
        "grpc": f"{prefix}_LISTEN",
        "metrics": f"{prefix}_METRICS_LISTEN",
        "health": f"{prefix}_HEALTH_LISTEN",
        "edge": f"{prefix}_EDGE_LISTEN",
    }
    assert ports == {
        name: int(defaults[variable].rpartition(":")[2])
        for name, variable in listens.items()
        if variable in defaults
    }
    assert container["livenessProbe"]["grpc"] == {"port": HEALTH[service], "service": "live"}
    assert container["startupProbe"]["grpc"] == {"port": HEALTH[service], "service": "live"}
    readiness = container["readinessProbe"]["grpc"]
    assert readiness["port"] == HEALTH[service]
    # A gateway is ready by itself; whether its neighbours are, it says in /health.
    assert readiness.get("service", "") == ("ready" if service == "gateway" else "")


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_services_select_their_pods_and_know_their_ports(overlay: str, name: str) -> None:
    workload = manifests.workload(overlay, name)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    ports = {
        port["name"] for one in manifests.containers(workload) for port in one.get("ports", ())
    }
    found = [
        one for one in manifests.kind(overlay, "Service") if one["spec"]["selector"]["app"] == name
    ]
    assert found
    for service in found:
        assert service["metadata"]["namespace"] == workload["metadata"]["namespace"]
        selector = dict(service["spec"]["selector"])
        pod = selector.pop(POD_NAME, None)
        assert selector.items() <= labels.items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        if service["metadata"]["name"] == "weaver-api":
            continue
        # All pods of a service, or the one of a log.
        assert (service["spec"].get("clusterIP") == "None") is (pod is None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_log_has_an_address_that_stays_when_its_pod_is_replaced(overlay: str) -> None:
    replicas = manifests.workload(overlay, "audit")["spec"]["replicas"]
    for number in range(replicas):
        service = manifests.named(overlay, "Service", f"audit-{number}")
        assert service["spec"]["selector"] == {"app": "audit", POD_NAME: f"audit-{number}"}
        assert service["spec"]["publishNotReadyAddresses"]
        assert "clusterIP" not in service["spec"]
        # Or it would be scraped twice.
        assert "app" not in service["metadata"]["labels"]
    for caller in ("gateway", "ratelimit", "model"):
        address = manifests.environment(overlay, caller)["WEAVER_AUDIT_ADDRESS"]
        assert address == "dns:///audit-0.weaver-audit.svc.cluster.local:8003"


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["gateway", "ratelimit", "model"])
def test_a_pod_goes_when_names_had_time_to_tell_of_the_one_before(overlay: str, name: str) -> None:
    workload = manifests.workload(overlay, name)
    assert workload["spec"]["minReadySeconds"] > NAMES_LATE_S


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_addresses_are_names_of_services_and_calls_spread_over_their_pods(overlay: str) -> None:
    services = {
        f"{one['metadata']['name']}.{one['metadata']['namespace']}.svc.cluster.local": one
        for one in manifests.kind(overlay, "Service")
    }
    seen = 0
    for service in SERVICES:
        for variable, value in manifests.environment(overlay, service).items():
            if variable.startswith("WEAVER_") and variable.endswith("_ADDRESS"):
                host, _, port = value.removeprefix("dns:///").rpartition(":")
                assert value.startswith("dns:///")
                assert int(port) in {one["port"] for one in services[host]["spec"]["ports"]}
                seen += 1
    assert seen == 5


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_front_door_is_reachable_from_outside(overlay: str) -> None:
    outside = [
        one["metadata"]["name"]
        for one in manifests.kind(overlay, "Service")
        if one["spec"].get("type", "ClusterIP") != "ClusterIP"
    ]
    assert outside == ["weaver-api"]
    ports = manifests.named(overlay, "Service", "weaver-api")["spec"]["ports"]
    assert [port["port"] for port in ports] == [443]


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", [*SERVICES, "envoy"])
def test_a_certificate_says_the_name_that_the_services_check(overlay: str, name: str) -> None:
    certificate = manifests.named(overlay, "Certificate", f"{name}-mtls")
    assert certificate["spec"]["uris"] == [f"spiffe://weaver/{name}"]
    assert certificate["spec"]["dnsNames"] == [name]
    assert {"server auth", "client auth"} <= set(certificate["spec"]["usages"])
    workload = manifests.workload(overlay, name)
    assert certificate["metadata"]["namespace"] == workload["metadata"]["namespace"]
    (volume,) = (one for one in manifests.pod(workload)["volumes"] if one["name"] == "tls")
    assert volume["secret"]["secretName"] == certificate["spec"]["secretName"]
    files = {item["key"]: item["path"] for item in volume["secret"]["items"]}
    assert files == {
        "ca.crt": "ca.pem",
        "tls.crt": f"{name}.pem",
        "tls.key": f"{name}-key.pem",
    }


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_only_audit_can_mount_the_signing_key(overlay: str) -> None:
    for manifest in manifests.kind(overlay, *manifests.WORKLOADS):
        mounted = {
            volume["secret"]["secretName"]
            for volume in manifests.pod(manifest)["volumes"]
            if "secret" in volume
        }
        is_audit = manifest["metadata"]["name"] == "audit"
        assert ("telemetry-signing-keys" in mounted) is is_audit
        assert (manifest["metadata"]["namespace"] == "weaver-audit") is is_audit
    roles = list(manifests.kind(overlay, "Role", "ClusterRole"))
    for role in roles:
        for rule in role["rules"]:
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["telemetry-signing-keys"]
                assert not {"list", "watch", "*"} & set(rule["verbs"])


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["gateway", "ratelimit", "model", "envoy"])
def test_an_autoscaler_owns_the_number_of_replicas(overlay: str, name: str) -> None:
    workload = manifests.workload(overlay, name)
    assert "replicas" not in workload["spec"]
    assert workload["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    scaler = manifests.named(overlay, "HorizontalPodAutoscaler", name)["spec"]
    assert scaler["scaleTargetRef"]["name"] == name
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 300
    assert scaler["behavior"]["scaleUp"]["stabilizationWindowSeconds"] == 60
    targets = {
        one["resource"]["name"]: one["resource"]["target"]["averageUtilization"]
        for one in scaler["metrics"]
    }
    assert targets == {"cpu": 70, "memory": 80}
    # 80 % of a request below the limit would be reached for good: so the two are one.
    for container in manifests.pod(workload)["containers"]:
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_production_has_the_numbers_of_the_guide() -> None:
    scaler = manifests.named("production", "HorizontalPodAutoscaler", "gateway")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 10)
    configuration = manifests.named("production", "ConfigMap", "weaver-config")["data"]
    assert (
        configuration.items()
        >= {
            "WEAVER_MODEL_PROVIDER": "openai",
            "WEAVER_MODEL_NAME": "gpt-4",
            "WEAVER_AUTH_MODE": "jwt",
            "WEAVER_PII_REDACT": "true",
            "WEAVER_RATELIMIT_RPS": "5",
            "WEAVER_RATELIMIT_BURST": "10",
            "WEAVER_REQUEST_MAX_TOKENS": "4096",
            "WEAVER_REQUEST_TIMEOUT_MS": "25000",
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_SAMPLE_RATIO": "0.1",
            "REDIS_PORT": "6379",
            "LOG_LEVEL": "INFO",
        }.items()
    )
    signing = manifests.named("production", "ConfigMap", "audit-config")["data"]
    assert signing["WEAVER_TELEMETRY_SIGNING_ENABLED"] == "true"


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_drain_of_a_node_takes_one_pod_at_a_time(overlay: str, name: str) -> None:
    budget = manifests.named(overlay, "PodDisruptionBudget", name)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == {"app": name}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_time_to_end_is_longer_than_notice_and_draining(overlay: str) -> None:
    for service in SERVICES:
        variables = manifests.environment(overlay, service)
        needed = float(variables.get("WEAVER_DRAIN_NOTICE_SECONDS", "0"))
        needed += float(variables["WEAVER_DRAIN_SECONDS"])
        pod = manifests.pod(manifests.workload(overlay, service))
        assert pod["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_replica_of_the_log_has_a_volume_of_its_own(overlay: str) -> None:
    audit = manifests.workload(overlay, "audit")
    (claim,) = audit["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert audit["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    container = manifests.container(overlay, "audit")
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "audit-logs")
    path = manifests.environment(overlay, "audit")["WEAVER_AUDIT_PATH"]
    assert path.startswith(f"{mount['mountPath']}/")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_with_metrics_is_scraped(overlay: str) -> None:
    for name, port in METRICS.items():
        monitor = manifests.named(overlay, "ServiceMonitor", name)
        (endpoint,) = monitor["spec"]["endpoints"]
        service = manifests.named(overlay, "Service", name)
        assert monitor["spec"]["selector"]["matchLabels"].items() <= (
            service["metadata"]["labels"].items()
        )
        ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
        assert ports[endpoint["port"]] == port


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_secret_and_map_that_a_pod_mounts_is_made_by_somebody(overlay: str) -> None:
    made = {
        (one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in manifests.kind(overlay, "Secret", "ExternalSecret", "SealedSecret", "ConfigMap")
    } | {
        (one["metadata"]["namespace"], one["spec"]["secretName"])
        for one in manifests.kind(overlay, "Certificate")
    }
    for manifest in manifests.kind(overlay, *manifests.WORKLOADS):
        namespace = manifest["metadata"]["namespace"]
        for volume in manifests.pod(manifest)["volumes"]:
            source: dict[str, Any] = volume.get("secret") or volume.get("configMap") or {}
            name = source.get("secretName") or source.get("name")
            assert name is None or (namespace, name) in made, name


def test_no_secret_of_value_lies_in_the_manifests() -> None:
    for path in (manifests.ROOT / "deploy" / "kubernetes").rglob("*.yaml"):
        text = path.read_text()
        assert "PRIVATE KEY" not in text
        for document in yaml.safe_load_all(text):
            if path.parent.name != "development-secrets" and isinstance(document, dict):
                assert document.get("kind") != "Secret"


def test_the_table_of_resources_is_that_of_the_manifests() -> None:
    page = (manifests.ROOT / "docs" / "operations" / "deploy.md").read_text()
    _, _, table = page.partition("| workload |")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:9]]
    assert {row[0] for row in rows} == set(WORKLOADS)
    for name, cpu, memory, replicas in rows:
        workload = manifests.workload("production", name)
        resources = manifests.pod(workload)["containers"][0]["resources"]
        asked, limit = resources["requests"], resources["limits"]
        assert (cpu, memory) == (
            f"{asked['cpu']} / {limit['cpu']}",
            f"{asked['memory']} / {limit['memory']}",
        )
        if "replicas" in workload["spec"]:
            assert replicas == str(workload["spec"]["replicas"])
        else:
            scaler = manifests.named("production", "HorizontalPodAutoscaler", name)["spec"]
            assert replicas == f"{scaler['minReplicas']} to {scaler['maxReplicas']}"
