"""`weaver roles check`: an operator's file, before a gateway reads it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import roles

EXAMPLE = str(Path(__file__).parents[3] / "deploy" / "gateway" / "roles.yaml")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(roles.app, ["check", *arguments])


def test_a_good_file_is_shown_role_by_role() -> None:
    done = run(EXAMPLE)
    assert done.exit_code == 0
    assert done.stdout.startswith("good: 8 roles, version ")
    assert "  models          gpt-*, claude-*, stub-* but not *-preview\n" in done.stdout
    assert "  audit           records: tenant, keys: own, texts: own\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--role", "chat-only", "--model", "gpt-5"], 0, "allowed: gpt-5 through chat.completions"),
        (["--role", "chat-only", "--model", "gpt-5-preview"], 3, "denied: gpt-5-preview"),
        (["--role", "chat-only", "--model", "gpt-5", "--surface", "responses"], 3, "denied"),
        (["--role", "chat-only", "--role", "user", "--model", "x"], 0, "with chat-only, user"),
        (["--model", "gpt-5"], 3, "with no role"),
    ],
)
def test_what_a_caller_may_do_can_be_tried(arguments: list[str], status: int, said: str) -> None:
    done = run(EXAMPLE, *arguments)
    assert done.exit_code == status
    assert said in done.stdout
    shown = json.loads(run(EXAMPLE, "--json", *arguments).stdout)
    assert shown["allowed"] is (status == 0)
    assert shown["roles"]["operator"]["administration"] == "read"


def test_what_is_wrong_is_said_and_the_status_tells(tmp_path: Path) -> None:
    bad = tmp_path / "roles.yaml"
    bad.write_text("version: 1\nroles: {a: {surface: []}}")
    done = run(str(bad))
    assert done.exit_code == 1
    assert "unknown field `surface`" in done.stderr
    assert run(str(tmp_path / "none.yaml")).exit_code == 1
    assert run(EXAMPLE, "--surface", "telepathy", "--model", "m").exit_code == 2
