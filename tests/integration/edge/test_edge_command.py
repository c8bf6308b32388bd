"""`weaver envoy`: what it renders is what Envoy takes."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli import edge as configuration
from services.cli.__main__ import application


def test_the_command_lets_envoy_check_both_renderings() -> None:
    checked = CliRunner().invoke(application(["envoy"]), ["envoy", "validate"])
    assert checked.exit_code == 0, checked.output
    assert "for local: good" in checked.output
    assert "for container: good" in checked.output


def test_the_command_says_what_envoy_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "FORWARDED_NAMES", ("(",))
    checked = CliRunner().invoke(application(["envoy"]), ["envoy", "validate"])
    assert checked.exit_code == 1
    assert "Envoy refuses the configuration for local" in checked.output


def test_the_command_renders_for_containers(tmp_path: Path) -> None:
    arguments = ["envoy", "render", "--target", "container", "--output", str(tmp_path)]
    arguments += ["--directory", "/etc/envoy"]
    rendered = CliRunner().invoke(application(["envoy"]), arguments)
    assert rendered.exit_code == 0, rendered.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "envoy.yaml",
        "front-secret.yaml",
        "client-secret.yaml",
        "ca-secret.yaml",
        "weaver.binpb",
    }
    assert '"/etc/envoy/weaver.binpb"' in (tmp_path / "envoy.yaml").read_text()
