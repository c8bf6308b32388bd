"""The documents point at things that exist, and can all be reached from their index."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def links(page: Path) -> set[Path]:
    """Return what a page points at in the tree."""
    return {(page.parent / target).resolve() for target in LINK.findall(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not target.exists()] == []


def test_every_page_is_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    reached, ahead = {index}, {index}
    while ahead:
        ahead = {
            found for page in ahead for found in links(page) if found.suffix == ".md"
        } - reached
        reached |= ahead
    missing = [str(page.relative_to(ROOT)) for page in PAGES if page not in reached]
    assert missing == []
