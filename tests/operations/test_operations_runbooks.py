"""What the runbooks say can be typed, as it stands, by a shell: on a suite that runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import RunningSuite
from tests.fakes.operated import OPERATIONS, Operated, blocks

PAGES = ("backup", "compliance", "debug-latency", "disasters", "rotate-secrets", "scale")


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


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_can_be_done(operated: Operated, tmp_path: Path, page: str) -> None:
    script = "".join(blocks(OPERATIONS / f"{page}.md"))
    done = operated.shell(script, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
