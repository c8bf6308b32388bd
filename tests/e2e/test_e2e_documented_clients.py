"""The clients that docs/api/clients.md shows work as they are printed there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api" / "clients.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
EXPECTED = (r"\d+ \d+\n$", r"stop, record \d+\n$", r"reason INVALID_REQUEST\nfields \['messages'\]")


@pytest.mark.parametrize(("example", "expected"), list(zip(EXAMPLES, EXPECTED, strict=True)))
def test_an_example_of_the_page_does_what_it_says(
    suite: Any, tmp_path: Path, example: str, expected: str
) -> None:
    script = tmp_path / "example.py"
    front = suite.url.removeprefix("https://")
    script.write_text(
        example.replace("127.0.0.1:8443", front).replace(".weaver/tls/ca.pem", str(suite.ca))
    )
    result = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "WEAVER_API_KEY": suite.api_key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert re.search(expected, result.stdout), result.stdout
