"""The command line: every command is there, explains itself, and loads no more than it needs."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import COMMANDS, application
from services.cli.children import cache, needs_cache, needs_valkey, valkey
from services.cli.rundir import RunDirectory

runner = CliRunner()


def test_help_lists_every_command() -> None:
    shown = runner.invoke(application([]), ["--help"])
    assert shown.exit_code == 0
    assert [name for name in COMMANDS if f"  {name} " not in shown.output] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    shown = runner.invoke(application([name]), [name, "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage:")


def test_an_unknown_command_is_a_usage_error() -> None:
    assert runner.invoke(application(["frobnicate"]), ["frobnicate"]).exit_code == 2


def test_an_unknown_service_is_a_usage_error() -> None:
    assert runner.invoke(application(["serve"]), ["serve", "billing"]).exit_code == 2


def test_up_does_not_wait_for_the_services_to_load() -> None:
    heavy = "{'grpc', 'httpx', 'jwt', 'services.gateway', 'services.audit'}"
    code = f"import sys, services.cli.up; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_envoy_and_valkey_learn_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVER_MODEL_API_KEY", "sk-secret")
    run = RunDirectory(tmp_path)
    with run.held():
        program, socket = valkey(run, 'pass"word\\ é')
        assert "sk-secret" not in str(program)
        assert "pass" not in str(program)
        configuration = run.path / "valkey.conf"
        assert configuration.stat().st_mode & 0o077 == 0
        lines = configuration.read_text().splitlines()
    assert 'requirepass "pass\\x22word\\x5c \\xc3\\xa9"' in lines
    assert f'unixsocket "{socket}"' in lines
    assert "appendonly yes" in lines


@pytest.mark.parametrize(
    ("environment", "needed"),
    [
        ({}, True),
        ({"REDIS_UNIX_SOCKET": "/run/redis.sock"}, False),
        ({"REDIS_HOST": "redis.example.com"}, False),
    ],
)
def test_valkey_is_started_where_nobody_provides_one(
    environment: dict[str, str], needed: object
) -> None:
    assert needs_valkey(environment) is needed


@pytest.mark.parametrize(
    ("environment", "needed"),
    [
        ({}, False),
        ({"WEAVER_MODEL_CACHE_ENABLED": "false"}, False),
        ({"WEAVER_MODEL_CACHE_ENABLED": "True"}, True),
        ({"WEAVER_MODEL_CACHE_ENABLED": "1", "WEAVER_MODEL_CACHE_ADDRESS": "c:6379"}, False),
    ],
)
def test_a_store_for_answers_is_started_where_they_are_kept_and_nobody_provides_one(
    environment: dict[str, str], needed: object
) -> None:
    assert needs_cache(environment) is needed


@pytest.mark.parametrize(
    ("said", "most"), [("", "268435456"), ("x", "268435456"), ("9000", "9000")]
)
def test_the_store_for_answers_keeps_nothing_on_disk_and_makes_room(
    tmp_path: Path, said: str, most: str
) -> None:
    run = RunDirectory(tmp_path)
    with run.held():
        program, socket = cache(run, "", said)
        lines = (run.path / "cache.conf").read_text().splitlines()
    assert program.name == "cache"
    assert socket.name == "cache.sock"
    assert {f"maxmemory {most}", "maxmemory-policy allkeys-lru", 'save ""'} <= set(lines)
    assert "appendonly yes" not in lines
