"""`make check` refuses a contract that would break a caller, wherever the change stands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTO = Path("protos/weaver/ratelimit/v1/ratelimit_service.proto")


class Tree:
    """A copy of the contracts with the tools that check them, in git."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> None:
        name = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        command = ["git", *name, *arguments]
        subprocess.run(command, cwd=self.root, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "-m", "contracts: change")

    def replace(self, old: str, new: str) -> None:
        path = self.root / PROTO
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def check(self) -> tuple[int, str]:
        result = subprocess.run(
            [sys.executable, "tools/contracts.py"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout + result.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    for folder in ("protos", "tools"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    tree = Tree(tmp_path)
    tree.git("init", "--quiet")
    tree.commit()
    return tree


def test_the_first_commit_has_nothing_to_compare_with_and_passes(tree: Tree) -> None:
    status, said = tree.check()
    assert status == 0
    assert said.startswith("nothing to compare the contracts with: no parent commit here")


def test_a_breaking_change_is_refused_before_and_after_it_is_committed(tree: Tree) -> None:
    tree.replace("string refused_by = 4", "int32 refused_by = 4")
    before = tree.check()
    tree.commit()
    after = tree.check()
    for (status, said), revision in ((before, "HEAD"), (after, "HEAD~1")):
        assert status == 1
        assert 'name "refused_by"' in said
        assert f"contracts compared with {revision}\n" in said


def test_a_new_field_passes(tree: Tree) -> None:
    tree.replace(
        "string refused_by = 4;", "string refused_by = 4;\n  // More.\n  string more = 99;"
    )
    assert tree.check() == (0, "contracts compared with HEAD\n")


def test_a_field_without_a_comment_is_refused(tree: Tree) -> None:
    tree.replace("string refused_by = 4;", "string refused_by = 4;\n  string more = 99;")
    status, said = tree.check()
    assert status == 1
    assert "non-empty comment" in said
