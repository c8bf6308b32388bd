"""The component of backups, in production: its jobs run commands that exist, restricted."""

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from services.audit.settings import AuditSettings
from services.cli.__main__ import application
from tests.fakes import manifests


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    return list(manifests.render("production"))


def jobs(rendered: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the specification of each job's pod, and of the audit service's."""
    found = {
        one["metadata"]["name"]: one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for one in rendered
        if one["kind"] == "CronJob"
    }
    (audit,) = (one for one in rendered if _is(one, "StatefulSet", "audit"))
    return {**found, "audit": audit["spec"]["template"]["spec"]}


def _is(one: dict[str, Any], kind: str, name: str) -> bool:
    return (one["kind"], one["metadata"]["name"]) == (kind, name)


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
            # The transformations of base do not reach what a component adds.
            assert container["image"].startswith("your-registry.com/"), name
            assert ":" in container["image"], name


def test_jobs_get_no_identity_that_opens_what_they_make(rendered: list[dict[str, Any]]) -> None:
    for name, pod in jobs(rendered).items():
        text = yaml.safe_dump(pod)
        assert ("IDENTITY" in text) is (name == "recovery-drill")
    (drill,) = (one for one in rendered if _is(one, "CronJob", "recovery-drill"))
    assert drill["spec"]["suspend"] is True


def test_the_snapshot_is_daily_and_keeps_what_the_guide_asks_for(
    rendered: list[dict[str, Any]],
) -> None:
    (job,) = (one for one in rendered if _is(one, "CronJob", "redis-backup"))
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


def test_the_sidecar_reads_the_settings_of_its_log(rendered: list[dict[str, Any]]) -> None:
    pod = jobs(rendered)["audit"]
    assert [container["name"] for container in pod["containers"]] == ["audit", "upkeep"]
    known = {str(field.validation_alias) for field in AuditSettings.model_fields.values()}
    own = manifests.environment("production", "audit")
    for variable, value in manifests.environment("production", "audit", "upkeep").items():
        if variable.removesuffix("_FILE") in known:
            assert own[variable] == value, variable
        else:
            assert variable.startswith(("WEAVER_BACKUP_", "WEAVER_ARCHIVE_", "AWS_")), variable


def test_nothing_that_is_mounted_is_nobodys(rendered: list[dict[str, Any]]) -> None:
    """What operators bring is optional, or only for the drill, which is suspended."""
    made = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in rendered
        if one["kind"] in {"ConfigMap", "ExternalSecret", "ServiceAccount"}
    }
    for one in rendered:
        if one["kind"] != "CronJob":
            continue
        namespace = one["metadata"]["namespace"]
        pod = one["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert (namespace, pod["serviceAccountName"]) in made
        names = [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        for source in pod["containers"][0]["envFrom"]:
            if "configMapRef" in source:
                names.append(source["configMapRef"]["name"])
            else:
                assert source["secretRef"]["optional"]
        for name in names:
            assert (namespace, name) in made or name == "backup-identity"
