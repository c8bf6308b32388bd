"""What the pages of alerts say can be typed: on a suite that has its backups and was drilled."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RunningSuite
from tests.fakes.operated import OPERATIONS, Operated, blocks


@pytest.fixture(scope="module")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operated]:
    running = RunningSuite("up", {})
    try:
        place = tmp_path_factory.mktemp("operator")
        place.chmod(0o700)
        operator = Operated(running, place)
        operator.do_first_duties(place)
        yield operator
    finally:
        running.stop()


def test_what_the_pages_of_alerts_say_can_be_done(operated: Operated, tmp_path: Path) -> None:
    """Each different line once, in a fork: starting Python a hundred times would take minutes."""
    pages = sorted((OPERATIONS / "alerts").glob("*.md"))
    lines = [
        line
        for page in pages
        for block in blocks(page)
        for line in block.splitlines()
        if line.startswith("weaver ")
    ]
    others = {
        line for page in pages for block in blocks(page) for line in block.splitlines()
    } - set(lines)
    assert others == {"sleep 2"}
    results = operated.commands(list(dict.fromkeys(lines)), tmp_path)
    failed = {line: said for line, (status, said) in results.items() if status}
    assert not failed, "\n".join(f"{line}\n{said}" for line, said in failed.items())
    assert len(results) > 25
