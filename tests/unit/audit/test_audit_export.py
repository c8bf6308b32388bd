"""Exports: every record of one is proven, and nothing else passes for one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.cli import audit
from tests.fakes.biglog import entry, signer, write_log


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    batch = [
        entry(i + 1, event_time=f"2026-01-{1 + i // 100:02d}T00:00:00.000000Z", request_id=f"r{i}")
        for i in range(700)
    ]
    write_log(tmp_path, [batch])
    (tmp_path / "key.pem").write_text(signer().verifier.pem)
    return tmp_path


def run(*arguments: object) -> Result:
    result: Any = CliRunner().invoke(audit.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result  # type: ignore[no-any-return]


def export(*options: str) -> list[dict[str, Any]]:
    result = run("export", "--log", "log", "--output", "out.jsonl", *options)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]


def verify(name: str = "out.jsonl") -> Result:
    return run("verify-export", name, "--key", "key.pem")


def test_a_whole_export_is_proven_by_its_root(place: Path) -> None:
    lines = export()
    assert [line["index"] for line in lines] == list(range(700))
    assert "proof" not in lines[0]
    result = verify()
    assert result.exit_code == 0, result.output
    assert "proven: 700 records, all records of weaver.test/log at size 700" in result.stdout
    assert verify("out.jsonl.manifest.json").exit_code == 0
    assert sorted(path.name for path in place.glob("out*")) == [
        "out.jsonl",
        "out.jsonl.manifest.json",
    ]


def test_a_choice_of_records_is_proven_one_by_one(place: Path) -> None:
    lines = export("--since", "2026-01-03", "--until", "2026-01-04")
    assert [line["index"] for line in lines] == list(range(200, 300))
    result = verify()
    assert result.exit_code == 0, result.output
    assert "a choice of the records" in result.stdout
    assert "not proven" in result.stdout
    manifest = json.loads(Path("out.jsonl.manifest.json").read_text())
    assert manifest["filter"]["start_time"] == "2026-01-03T00:00:00.000000Z"
    assert export("--request-id", "nobody") == []
    assert verify().exit_code == 0


def edit_line(lines: list[str]) -> None:
    lines[7] = lines[7].replace('"refusal"', '"outcome"')


def drop_line(lines: list[str]) -> None:
    del lines[7]


def drop_last(lines: list[str]) -> None:
    lines.pop()


def double_line(lines: list[str]) -> None:
    lines.insert(7, lines[7])


def swap_lines(lines: list[str]) -> None:
    lines[7], lines[8] = lines[8], lines[7]


def other_index(lines: list[str]) -> None:
    lines[-1] = lines[-1].replace('"index":', '"index":1')


def no_json(lines: list[str]) -> None:
    lines[3] = "x"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "edit", [edit_line, drop_line, drop_last, double_line, swap_lines, other_index, no_json]
)
def test_a_changed_export_is_not_proven(
    place: Path, edit: Callable[[list[str]], None], whole: bool
) -> None:
    export(*([] if whole else ["--since", "2026-01-03"]))
    path = Path("out.jsonl")
    lines = path.read_text().splitlines()
    edit(lines)
    path.write_text("\n".join(lines) + "\n")
    result = verify()
    assert result.exit_code == 1
    assert "not proven" in result.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 600),
        ("origin", "weaver.test/other"),
        ("whole", False),
        ("records", 699),
        ("sha256", "00"),
        ("format", "other"),
        ("file", "../log/checkpoint"),
        ("checkpoint", "nonsense"),
    ],
)
def test_a_changed_manifest_is_not_proven(place: Path, field: str, value: object) -> None:
    export()
    path = Path("out.jsonl.manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert verify().exit_code == 1


def test_another_key_proves_nothing(place: Path) -> None:
    export()
    (place / "key.pem").write_text(signer("another").verifier.pem)
    assert verify().exit_code == 1


def test_an_export_that_breaks_off_leaves_what_was_there(place: Path) -> None:
    export("--request-id", "r1")
    before = Path("out.jsonl").read_bytes()
    (place / "log" / "tile" / "entries" / "001").unlink()
    assert run("export", "--log", "log", "--output", "out.jsonl").exit_code == 2
    assert Path("out.jsonl").read_bytes() == before
    assert verify().exit_code == 0
    assert run("export", "--log", "log", "--output", "nowhere/out").exit_code == 2
