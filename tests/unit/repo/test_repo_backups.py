"""The component of backups: on top of production, its jobs run commands that exist, restricted."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from services.cli.__main__ import application
from tests.fakes import manifests
from tools import kubectl

COMPONENT = manifests.ROOT / "deploy" / "kubernetes" / "components" / "backup"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    place = tmp_path_factory.mktemp("overlay")
    production = manifests.ROOT / "deploy" / "kubernetes" / "overlays" / "production"
    (place / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": [_from(place, production)],
                "components": [_from(place, COMPONENT)],
            }
        )
    )
    done = subprocess.run(
        [str(kubectl.find()), "kustomize", str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def _from(place: Path, target: Path) -> str:
    up = "/".join([".."] * (len(place.resolve().parts) - 1))
    return f"{up}{target.resolve()}"


def jobs(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the specification of each job's pod, and of the audit service's."""
    found = {
        one["metadata"]["name"]: one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for one in rendered
        if one["kind"] == "CronJob"
    }
    (audit,) = (one for one in rendered if one["kind"] == "StatefulSet" and _is_audit(one))
    return {**found, "audit": audit["spec"]["template"]["spec"]}


def _is_audit(one: dict[str, Any]) -> bool:
    return bool(one["metadata"]["name"] == "audit")


def test_each_job_runs_a_command_that_there_is(rendered: list[dict[str, Any]]) -> None:
    commands = [
        [*container["command"], *container.get("args", [])]
        for pod in jobs(rendered).values()
        for container in pod["containers"]
        if container.get("command", [""])[0] == "weaver"
    ]
    assert len(commands) == 3
    for command in commands:
        asked = CliRunner().invoke(application(command[1:]), [*command[1:3], "--help"])
        assert asked.exit_code == 0, command
        for option in (word for word in command if word.startswith("--")):
            assert option in asked.output, command


def test_every_container_is_restricted(rendered: list[dict[str, Any]]) -> None:
    for name, pod in jobs(rendered).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])


def test_jobs_get_no_identity_that_opens_what_they_make(rendered: list[dict[str, Any]]) -> None:
    for name, pod in jobs(rendered).items():
        text = yaml.safe_dump(pod)
        assert ("IDENTITY" in text) is (name == "recovery-drill")
    (drill,) = (one for one in rendered if one["metadata"]["name"] == "recovery-drill")
    assert drill["spec"]["suspend"] is True


def test_the_snapshot_is_daily_and_keeps_what_the_guide_asks_for(
    rendered: list[dict[str, Any]],
) -> None:
    (job,) = (one for one in rendered if one["metadata"]["name"] == "redis-backup")
    minute, hour, *days = job["spec"]["schedule"].split()
    assert minute.isdigit()
    assert hour.isdigit()
    assert days == ["*", "*", "*"]
    (container,) = jobs(rendered)["redis-backup"]["containers"]
    assert container["command"] == ["weaver", "backup", "redis", "--prune"]


def test_the_sidecar_shares_the_volume_of_its_log(rendered: list[dict[str, Any]]) -> None:
    pod = jobs(rendered)["audit"]
    mounts = {
        container["name"]: {mount["name"] for mount in container["volumeMounts"]}
        for container in pod["containers"]
    }
    assert {"audit-logs", "keys"} <= mounts["audit"] & mounts["upkeep"]
