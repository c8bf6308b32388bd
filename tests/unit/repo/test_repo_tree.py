"""What `make check` finds in a tree, and what it lets pass."""

from pathlib import Path

import pytest

from tools import tree

# Put together here, so that the tree that holds this test stays clean.
BEGIN = "-----BEGIN " + "PRIVATE KEY-----"
OPENAI = "sk-" + "a1B2" * 5 + "T3Blbk" + "FJ" + "c3D4" * 5
ANTHROPIC = "sk-" + "ant-api03-" + "x" * 40
GITHUB = "ghp" + "_" + "A1b2" * 9
AWS = "AKIA" + "IOSFODNN7ABCDEFG"
WEAVER = "wv" + "_" + "aB3" * 4 + "_" + "x9" * 19
INDEX = "https://" + "pypi.example.com/simple"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tree, "ROOT", tmp_path)
    return tmp_path


def write(root: Path, name: str, text: str) -> list[Path]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [path]


@pytest.mark.parametrize("secret", [BEGIN, OPENAI, ANTHROPIC, GITHUB, AWS, WEAVER])
def test_a_secret_is_found_where_it_stands(root: Path, secret: str) -> None:
    found = list(tree.secrets(write(root, "notes.txt", f"one\nkey = '{secret}'\n")))
    assert len(found) == 1
    assert found[0].startswith("notes.txt:2: ")
    assert secret not in found[0]


@pytest.mark.parametrize("secret", [OPENAI, ANTHROPIC])
def test_a_marked_line_passes(root: Path, secret: str) -> None:
    files = write(root, "test_x.py", f"KEY = '{secret}'  # {tree.ALLOWED}\n")
    assert list(tree.secrets(files)) == []


def test_ordinary_text_passes(root: Path) -> None:
    text = "password = settings.password\nhash = 'sha256:" + "ab" * 32 + "'\nid = 'wv-dev'\n"
    assert list(tree.secrets(write(root, "ordinary.py", text))) == []


@pytest.mark.parametrize("line", [f"--index-url {INDEX}", f"see {INDEX}/redis/"])
def test_an_address_of_a_package_index_is_found(root: Path, line: str) -> None:
    assert len(list(tree.registries(write(root, "docs/page.md", line)))) == 1


def test_a_lock_file_holds_no_address_at_all(root: Path) -> None:
    assert list(tree.registries(write(root, "requirements/dev.txt", "redis==8.1.0\n"))) == []
    files = write(root, "requirements/dev.txt", "redis @ https://example.com/redis.whl\n")
    assert len(list(tree.registries(files))) == 1


def test_files_that_grew_too_long_are_named(root: Path) -> None:
    short = [write(root, f"services/a/f{index}.py", "x = 1\n" * 10)[0] for index in range(20)]
    assert list(tree.lengths(short)) == []
    long = write(root, "services/a/long.py", "x = 1\n" * 401)
    assert list(tree.lengths(short + long)) == ["services/a/long.py: 401 lines; at most 400"]
    fat = [write(root, f"services/b/f{index}.py", "x = 1\n" * 310)[0] for index in range(30)]
    assert len(list(tree.lengths(short + fat))) == 2
