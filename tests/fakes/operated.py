"""Somebody who operates a suite: its backups, and what the runbooks have them type."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import RunningSuite

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations"
RUNNER = Path(__file__).resolve().parents[1] / "e2e" / "forked_commands.py"
FIRST_DUTIES = """
weaver chat "hello"
weaver backup redis
weaver backup keys
weaver backup side-store
weaver audit archive --to "$WEAVER_ARCHIVE_TARGET"
weaver backup drill --archive "$WEAVER_ARCHIVE_TARGET"
"""


class Operated:
    """A suite with its backups, and the environment of whoever operates it."""

    def __init__(self, suite: RunningSuite, place: Path) -> None:
        self.suite = suite
        recipient = suite.weaver(
            "backup", "keygen", "--output", str(place / "identity"), timeout=60
        ).stdout.strip()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {
            **suite.environment,
            "PATH": path,
            "WEAVER_BACKUP_TARGET": f"file://{place}/backups",
            "WEAVER_BACKUP_RECIPIENTS": recipient,
            "WEAVER_BACKUP_IDENTITY_FILE": str(place / "identity"),
            "WEAVER_ARCHIVE_TARGET": f"file://{place}/archive",
            "WEAVER_AUDITOR_DIR": str(place / "auditor"),
        }

    def shell(self, script: str, place: Path) -> subprocess.CompletedProcess[str]:
        """Run a script as it stands."""
        return subprocess.run(
            ["/bin/sh", "-ec", script],
            cwd=place,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    def commands(self, lines: list[str], place: Path) -> dict[str, tuple[int, str]]:
        """Run commands of `weaver`, each once."""
        with_values = {**self.environment, "PWD": str(place)}

        def expanded(line: str) -> str:
            return re.sub(r"\$(\w+)", lambda name: with_values[name[1]], line)

        words = [shlex.split(expanded(line))[1:] for line in lines]
        done = subprocess.run(
            [sys.executable, str(RUNNER)],
            input=json.dumps(words),
            cwd=place,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=110,
        )
        return {
            line: (status, said)
            for line, (status, said) in zip(lines, json.loads(done.stdout), strict=True)
        }

    def do_first_duties(self, place: Path) -> None:
        """Back everything up, and prove that it comes back."""
        done = self.shell(FIRST_DUTIES, place)
        assert done.returncode == 0, done.stdout + done.stderr


def blocks(page: Path) -> list[str]:
    found = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [str(block) for block in found]
