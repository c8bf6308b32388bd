"""What the containers wrote is kept when a test fails, and its warnings are shown with it."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.deploy.engine import Engine

SHOWN = 40


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say with a failure where the logs are."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("engine")
    if report.when == "call" and report.failed and isinstance(engine, Engine):
        folder = engine.keep_logs(item.name)
        report.sections.append((f"Containers' logs: {folder}", warnings(folder)))
    return report


def warnings(folder: Path) -> str:
    """Return the last lines in which services say that something is wrong."""
    lines = []
    for path in sorted(folder.iterdir()):
        said = path.read_text(encoding="utf-8", errors="replace").splitlines()
        wrong = [line for line in said if '"warning"' in line or '"error"' in line]
        lines += [f"{path.stem}: {line[:400]}" for line in wrong[-SHOWN:]]
    return "\n".join(lines)
