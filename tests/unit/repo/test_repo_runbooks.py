"""The runbooks are whole: a page for each alert, commands that exist, tests that are named."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
OPERATIONS = ROOT / "docs" / "operations"
MANIFESTS = ROOT / "deploy" / "kubernetes"
PAGES = sorted(
    [
        *(OPERATIONS / "alerts").glob("*.md"),
        *(
            OPERATIONS / f"{name}.md"
            for name in ("backup", "debug-latency", "disasters", "rotate-secrets", "scale")
        ),
    ]
)
RULES: list[dict[str, Any]] = [
    rule
    for path in sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
SECTIONS = ["Check", "Act", "Verify"]
NAMESPACES = {"weaver-ai", "weaver-audit", "monitoring"}
FLAGS = {
    "--all-containers", "--containers", "--dry-run", "--field-manager", "--for",
    "--force-conflicts", "--from-file", "--image",
    "--namespace", "--previous", "--profile", "--server-side", "--since", "--sort-by",
    "--tail", "--target", "--timeout", "-A", "-c", "-f", "-it", "-k", "-l", "-n", "-o", "-p",
}  # fmt: skip
VERBS = {
    "apply", "create", "debug", "delete", "describe", "exec", "get", "logs", "patch",
    "port-forward", "rollout", "top", "wait",
}  # fmt: skip
KINDS = {
    "certificate", "certificates", "cronjobs", "deployment", "events", "hpa", "jobs", "pod",
    "pods", "pvc", "secret", "statefulset",
}  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [str(block) for block in found]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(OPERATIONS)) for page in pages]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_links_to_its_page(rule: dict[str, Any]) -> None:
    url = rule["annotations"]["runbook_url"]
    assert url.endswith(f"docs/operations/alerts/{rule['alert']}.md")
    text = (OPERATIONS / "alerts" / f"{rule['alert']}.md").read_text()
    assert text.startswith(f"# {rule['alert']}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert re.match(r"# \w+\n\n\*\*(Now|Today|This week|Never)\.\*\* .{40}", text)


def test_every_page_belongs_to_an_alert() -> None:
    assert {page.stem for page in (OPERATIONS / "alerts").glob("*.md")} == {
        rule["alert"] for rule in RULES
    }


def test_the_list_of_alerts_is_generated() -> None:
    done = subprocess.run(
        [sys.executable, "tools/alerts_page.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_what_is_to_be_typed_is_shell(page: Path) -> None:
    for block in [*blocks(page, "sh"), *blocks(page, "bash")]:
        done = subprocess.run(
            ["/bin/sh", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}{done.stderr}"
        assert not re.search(r"get secret .*-o yaml|redis-cli (?!-e)", block)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_command_for_the_cluster_is_one_that_kubectl_has(page: Path) -> None:
    """Verbs, kinds, flags and namespaces; there is no cluster to run them on."""
    for block in blocks(page, "bash"):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            for command in line.split("|"):
                words = shlex.split(command)
                if words[:1] == ["kubectl"]:
                    check_kubectl(words[1:])


def check_kubectl(words: list[str]) -> None:
    ours = words[: words.index("--")] if "--" in words else words
    verb, *rest = ours
    assert verb in VERBS, words
    if verb == "rollout":
        assert rest.pop(0) in {"history", "restart", "status", "undo"}, words
    values = {"-n", "--namespace", "-l", "-p", "-c", "-o", "-k", "-f"}
    named: list[str] = []
    skip = False
    for word in rest:
        if skip:
            skip = False
        elif word.startswith("-"):
            flag = word.partition("=")[0]
            assert flag in FLAGS, words
            skip = word in values
        else:
            named.append(word)
    for flag in ("-n", "--namespace"):
        if flag in rest:
            assert rest[rest.index(flag) + 1] in NAMESPACES, words
    kind = named[0].partition("/")[0] if named else ""
    if verb in {"get", "describe", "patch", "rollout", "wait", "top", "create", "delete"}:
        assert kind in KINDS, words
    for word in named:
        known, slash, name = word.partition("/")
        if slash and known in {"deployment", "statefulset"}:
            assert name in workloads(known), words


def workloads(kind: str) -> set[str]:
    """Return what the manifests call their workloads."""
    found = set()
    for path in MANIFESTS.rglob("*.yaml"):
        for match in re.finditer(
            rf"^kind: {kind.capitalize()}$".replace("Statefulset", "StatefulSet")
            + r"\nmetadata:\n(?:  .*\n)*?  name: (\S+)",
            path.read_text(),
            re.MULTILINE,
        ):
            found.add(match[1])
    return found or {"gateway", "ratelimit", "model", "audit", "envoy", "redis", "otel-collector"}


def test_compliance_names_tests_that_exist() -> None:
    text = (OPERATIONS / "compliance.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) >= 30
    for path, name in named:
        source = (ROOT / path).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), name


def test_every_need_has_a_control_and_a_test() -> None:
    text = (OPERATIONS / "compliance.md").read_text()
    for regulation in ("GDPR", "SOX", "HIPAA", "PCI DSS"):
        section = text[text.index(f"\n## {regulation}") :].split("\n## ")[1]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 6, regulation
        for row in rows:
            need, control, test = (cell.strip() for cell in row.strip("|").split("|"))
            assert need
            assert control
            assert "`tests/" in test, row


def test_every_page_that_the_doctor_names_exists() -> None:
    for source in (ROOT / "services" / "cli" / "doctor").glob("*.py"):
        for page in re.findall(r'"((?:alerts/)?[\w-]+\.md)"', source.read_text()):
            if page not in {"deploy.md", "monitoring.md"}:
                assert (OPERATIONS / page).is_file(), f"{source.name}: {page}"
