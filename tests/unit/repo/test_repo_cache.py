"""The cache's store, where an operator adds it to production: in Kubernetes, and in Compose."""

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.common.settings import load
from services.model.settings import ModelSettings
from tests.fakes import manifests
from tools import kubectl

DEPLOY = manifests.ROOT / "deploy"
Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Manifest]:
    place = tmp_path_factory.mktemp("overlay")
    up = "/".join([".."] * (len(place.resolve().parts) - 1))
    kubernetes = f"{up}{DEPLOY}/kubernetes"
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{kubernetes}/overlays/production"],
        "components": [f"{kubernetes}/components/cache"],
    }
    (place / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    done = subprocess.run(
        [str(kubectl.find()), "kustomize", str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = yaml.load_all(done.stdout, Loader=yaml.CSafeLoader)
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def spec(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("release", ["1.28", "1.37"])
def test_its_manifests_are_valid(rendered: dict[tuple[str, str], Manifest], release: str) -> None:
    for place in [("Deployment", "cache"), ("Deployment", "model"), ("Service", "cache")]:
        kubernetes_validate.validate(rendered[place], release, strict=True)


def test_it_is_restricted_and_runs_a_script_that_is_shipped(
    rendered: dict[tuple[str, str], Manifest],
) -> None:
    pod = spec(rendered["Deployment", "cache"])
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["image"].startswith("docker.io/valkey/valkey:")
    (scripts,) = (one for one in pod["volumes"] if one["name"] == "scripts")
    shipped = rendered["ConfigMap", scripts["configMap"]["name"]]["data"]
    assert Path(container["command"][-1]).name in shipped


def test_only_the_model_service_reaches_it(rendered: dict[tuple[str, str], Manifest]) -> None:
    into = rendered["NetworkPolicy", "cache"]["spec"]
    assert into["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in into
    ((rule,), out) = (into["ingress"], rendered["NetworkPolicy", "model-to-cache"]["spec"])
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "model"}}}]
    assert out["podSelector"] == {"matchLabels": {"app": "model"}}
    assert out["egress"][0]["to"] == [{"podSelector": {"matchLabels": {"app": "cache"}}}]
    assert rule["ports"] == out["egress"][0]["ports"]


def test_the_model_service_starts_with_what_is_set(
    rendered: dict[tuple[str, str], Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = spec(rendered["Deployment", "model"])
    (container,) = pod["containers"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for variable in container["env"]:
        if not variable["name"].startswith("WEAVER_MODEL_CACHE_"):
            continue
        value = variable["value"]
        if variable["name"].endswith("_FILE"):
            assert str(Path(value).parent) in mounts
            value = str(tmp_path / Path(value).name)
            Path(value).write_text("0f" * 32)
        monkeypatch.setenv(variable["name"], value)
    settings = load(ModelSettings)
    host, _, port = settings.cache_address.partition(":")
    assert settings.cache_enabled
    assert host == "cache.weaver-ai.svc.cluster.local"
    assert int(port) == rendered["Service", "cache"]["spec"]["ports"][0]["port"]


def test_compose_gives_it_a_network_with_the_model_service_alone() -> None:
    more = yaml.safe_load((DEPLOY / "compose" / "cache.yaml").read_text())
    cache, model = more["services"]["cache"], more["services"]["model"]
    assert more["networks"] == {"cache": {"internal": True}}
    assert (list(cache["networks"]), list(model["networks"])) == (["cache"], ["cache"])
    assert cache["read_only"]
    assert cache["cap_drop"] == ["ALL"]
    assert "ports" not in cache
    known = {str(field.validation_alias) for field in ModelSettings.model_fields.values()}
    assert {name.removesuffix("_FILE") for name in model["environment"]} <= known
    assert (DEPLOY / "valkey" / Path(cache["command"][-1]).name).is_file()
