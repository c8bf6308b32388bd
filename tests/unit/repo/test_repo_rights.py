"""Who is woken may do what the page says: the roles of operators against the runbooks."""

import re
import shlex
from pathlib import Path

import pytest

from tests.fakes import manifests

OPERATIONS = manifests.ROOT / "docs" / "operations"
PAGES = sorted([*(OPERATIONS / "alerts").glob("*.md"), OPERATIONS / "scale.md"])
ROLES = {"weaver-ai": "weaver-operator", "weaver-audit": "audit-operator"}
PLURALS = {
    "pod": "pods", "pods": "pods", "pvc": "persistentvolumeclaims",
    "hpa": "horizontalpodautoscalers",
    "deployment": "deployments", "statefulset": "statefulsets", "events": "events",
    "jobs": "jobs", "cronjobs": "cronjobs", "certificate": "certificates",
    "certificates": "certificates",
}  # fmt: skip
ADMINISTRATORS = {"apply", "create", "debug", "delete", "exec", "wait"}
"""What takes more than an operator's rights, as rbac.yaml says."""


def commands(page: Path) -> list[list[str]]:
    found = re.findall(r"^```bash\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", "".join(found)).splitlines()
    words = [shlex.split(line.split("|")[0]) for line in lines]
    return [line[1:] for line in words if line[:1] == ["kubectl"]]


def asked(words: list[str]) -> set[tuple[str, str]]:
    """Return the rights, as verb and resource, that a command needs."""
    verb, *rest = words
    if verb == "logs":
        return {("get", "pods/log")}
    if verb == "top":
        return {("list", "pods")}
    if verb == "port-forward":
        return {("create", "pods/portforward")}
    if verb == "rollout":
        verb = "patch" if rest.pop(0) in {"restart", "undo"} else "get"
    if verb == "set":
        verb, rest = "patch", rest[1:]
    kind = next(word for word in named(rest) if word.partition("/")[0] in PLURALS)
    return {("get" if verb == "describe" else verb, PLURALS[kind.partition("/")[0]])}


def named(words: list[str]) -> list[str]:
    flags = {place for place, word in enumerate(words) if word in {"-n", "-l", "-p", "-o"}}
    return [
        word
        for place, word in enumerate(words)
        if not word.startswith("-") and place - 1 not in flags
    ]


def granted(namespace: str) -> set[tuple[str, str]]:
    role = manifests.named("production", "Role", ROLES[namespace])
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_an_operator_may_do_what_a_page_of_an_alert_says(page: Path) -> None:
    for words in commands(page):
        if words[0] in ADMINISTRATORS or "-n" not in words:
            continue
        namespace = words[words.index("-n") + 1]
        if namespace in ROLES:
            assert asked(words) <= granted(namespace), words


def test_no_operator_opens_a_container_or_reads_a_secret() -> None:
    for namespace in ROLES:
        resources = {resource for _, resource in granted(namespace)}
        assert not resources & {"secrets", "pods/exec", "pods/ephemeralcontainers", "*"}
    assert ("create", "pods") not in granted("weaver-audit")
    assert ("patch", "statefulsets") not in granted("weaver-audit")
