"""docs/operations/keys.md does what it says, and the alerts ask for metrics that exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from services.audit.keys.metrics import KeyMetrics
from services.audit.keys.signers import load_ed25519, load_rsa
from services.audit.settings import AuditSettings
from services.common.clock import SystemClock
from services.common.health import Health

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations" / "keys.md"
MANIFESTS = ROOT / "deploy" / "kubernetes"
RULES = ROOT / "deploy" / "prometheus" / "keys.rules.yaml"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def environment(home: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "WEAVER_STATE_DIR": str(home / "state"), "HOME": str(home)}


def test_every_command_that_needs_no_cluster_runs_as_it_stands(tmp_path: Path) -> None:
    script = "set -e\n" + "".join(f"({block})\n" for block in blocks("sh"))
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RSA key ok" in done.stdout + done.stderr
    assert done.stdout.count("the keys are good") == 2
    rsa = (tmp_path / "keys" / "telemetry_signing_key.pem").read_bytes()
    assert load_rsa(rsa, "page", production=True).key_size == 4096
    assert b"Weaver-Key-Reason: quarterly rotation" in rsa
    load_ed25519((tmp_path / "keys" / "audit_ed25519_key.pem").read_bytes(), "page")
    assert b"ENCRYPTED" in (tmp_path / "locked" / "telemetry_signing_key.pem").read_bytes()
    assert (tmp_path / "keys" / "telemetry_signing_key.previous.pem").exists()


def test_a_fetched_secret_is_put_in_place_whole_and_for_its_owner_alone(tmp_path: Path) -> None:
    """The procedures of AWS and Vault, with a program that prints the secret in their place."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("aws", "vault"):
        program = programs / name
        program.write_text("#!/bin/sh\nprintf 'the secret\\n'\n")
        program.chmod(0o755)
    fetching = [block for block in blocks("bash") if "signing-key.new" in block]
    assert len(fetching) == 2
    for block in fetching:
        env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
        subprocess.run(["/bin/sh", "-ec", block], cwd=tmp_path, env=env, check=True)
        made = tmp_path / "signing-key.pem"
        assert made.read_text() == "the secret\n"
        assert made.stat().st_mode & 0o777 == 0o600
        made.unlink()


@pytest.mark.parametrize("block", blocks("bash"))
def test_the_other_commands_are_at_least_shell(block: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-n"], input=block, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not re.search(r"get secret .*-o yaml", block)


def test_the_manifest_sets_variables_that_exist_to_files_that_are_mounted() -> None:
    (text,) = blocks("yaml")
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    known = {str(field.validation_alias) for field in AuditSettings.model_fields.values()}
    (secret,) = [block for block in blocks("bash") if "kubectl create secret" in block]
    held = set(re.findall(r"--from-file=([a-z0-9-]+)=", secret))
    shipped = yaml.safe_load((MANIFESTS / "base" / "audit" / "statefulset.yaml").read_text())
    (audit,) = shipped["spec"]["template"]["spec"]["containers"]
    for variable in container["env"]:
        assert variable["name"] in known
        assert variable in audit["env"]
        path = Path(variable["value"])
        assert str(path.parent) == mount["mountPath"]
        assert path.name in held
    assert mount in audit["volumeMounts"]
    files = {one["value"] for one in audit["env"] if one.get("value", "").startswith("/")}
    assert {Path(file).name for file in files} <= held
    assert pod["volumes"][0]["secret"]["defaultMode"] & 0o337 == 0


def test_every_variable_of_the_page_exists() -> None:
    known = {str(field.validation_alias) for field in AuditSettings.model_fields.values()}
    named = set(re.findall(r"WEAVER_[A-Z0-9_]+", PAGE.read_text()))
    assert named <= known | {name.removesuffix("_FILE") for name in known}


def test_the_alerts_ask_for_metrics_that_exist() -> None:
    registry = CollectorRegistry()
    KeyMetrics(registry, Health(), SystemClock())
    exported = {metric.name for metric in registry.collect()}
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    asked = {re.match(r"([a-z_]+) > (\d+)$", rule["expr"]) for rule in rules}
    assert {match[1] for match in asked if match} <= exported
    assert sorted(int(match[2]) for match in asked if match) == [0, 80, 90]
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
