"""The manifests of Kubernetes as kubectl renders them, and what the tests ask of them."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools import kubectl

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "staging", "production")
SERVICES = ("gateway", "ratelimit", "model", "audit")
WORKLOADS = ("Deployment", "StatefulSet")

Manifest = dict[str, Any]


@cache
def render(overlay: str) -> tuple[Manifest, ...]:
    """Return the manifests of an overlay."""
    directory = ROOT / "deploy" / "kubernetes" / "overlays" / overlay
    command = [str(kubectl.find()), "kustomize", str(directory)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr.lower(), result.stderr
    return tuple(yaml.load_all(result.stdout, Loader=yaml.CSafeLoader))


def kind(overlay: str, *kinds: str) -> Iterator[Manifest]:
    """Yield the manifests of some kinds."""
    return (manifest for manifest in render(overlay) if manifest["kind"] in kinds)


def named(overlay: str, kind_name: str, name: str) -> Manifest:
    """Return one manifest; a generated name may have its digest behind it."""
    (found,) = (
        manifest
        for manifest in kind(overlay, kind_name)
        if manifest["metadata"]["name"] == name
        or (kind_name == "ConfigMap" and manifest["metadata"]["name"].rpartition("-")[0] == name)
    )
    return found


def workload(overlay: str, name: str) -> Manifest:
    """Return a Deployment or StatefulSet."""
    (found,) = (one for one in kind(overlay, *WORKLOADS) if one["metadata"]["name"] == name)
    return found


def pod(manifest: Manifest) -> dict[str, Any]:
    """Return the specification of a workload's pods."""
    specification: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return specification


def pod_labels(manifest: Manifest) -> dict[str, str]:
    """Return the labels of the pods of a workload, or of a job that is made by the clock."""
    made = manifest["spec"]
    if manifest["kind"] == "CronJob":
        made = made["jobTemplate"]["spec"]
    labels: dict[str, str] = made["template"]["metadata"]["labels"]
    return labels


def containers(manifest: Manifest) -> list[dict[str, Any]]:
    """Return a workload's containers, those that prepare it first."""
    specification = pod(manifest)
    return [*specification.get("initContainers", ()), *specification["containers"]]


def container(overlay: str, name: str, own: str = "") -> dict[str, Any]:
    """Return a container of a workload: the one of its name, or another."""
    (found,) = (one for one in containers(workload(overlay, name)) if one["name"] == (own or name))
    return found


def environment(overlay: str, name: str, own: str = "") -> dict[str, str]:
    """Return the variables of a container: its map's, then its own; a field is the pod's name."""
    chosen = container(overlay, name, own)
    namespace = workload(overlay, name)["metadata"]["namespace"]
    variables: dict[str, str] = {}
    for source in chosen.get("envFrom", ()):
        if "configMapRef" in source:
            name_of_map = source["configMapRef"]["name"]
            variables |= named_exactly(overlay, "ConfigMap", name_of_map, namespace)["data"]
    for variable in chosen.get("env", ()):
        value = variable.get("value", f"{name}-0")
        for known, its_value in variables.items():
            value = value.replace(f"$({known})", its_value)
        variables[variable["name"]] = value
    return variables


def named_exactly(overlay: str, kind_name: str, name: str, namespace: str) -> Manifest:
    """Return one manifest by its rendered name."""
    (found,) = (
        one
        for one in kind(overlay, kind_name)
        if (one["metadata"]["namespace"], one["metadata"]["name"]) == (namespace, name)
    )
    return found
