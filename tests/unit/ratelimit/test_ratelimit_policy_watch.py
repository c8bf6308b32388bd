"""The policy file is read again when it changes; a bad one keeps the old policy and is visible."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from services.common.operator_file import OperatorFileError
from services.ratelimit.policy import Policy
from services.ratelimit.policy_file import PolicyError, parse
from services.ratelimit.policy_watch import PolicyWatch

GOOD = "version: 1\nrules: [{name: a, limit: 1, per: day}]\n"
OTHER = "version: 1\nrules: [{name: a, limit: 2, per: day}]\n"


class Board:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.health: tuple[bool, str] = (True, "")
        self.reads: list[tuple[str, bool, bool]] = []
        self.records: list[dict[str, str]] = []

    def set(self, name: str, serving: bool, detail: str = "") -> None:
        assert name == "policy"
        self.health = (serving, detail)

    def policy_read(self, version: str, *, good: bool, changed: bool) -> None:
        self.reads.append((version, good, changed))

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        self.records.append(dict(attributes))


class Rig:
    """A watched file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "policy.yaml"
        self.path.write_text(GOOD)
        self.board = Board()
        self.adopted: list[Policy] = []
        self.watch = PolicyWatch(
            self.path, parse=parse, health=self.board, gauge=self.board, trail=self.board
        )
        self.watch.adopt = self.adopted.append


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_change_is_adopted_counted_and_recorded(rig: Rig) -> None:
    first = rig.watch.first()
    await rig.watch.look()
    assert rig.adopted == []
    rig.path.write_text(OTHER)
    await rig.watch.look()
    (adopted,) = rig.adopted
    assert adopted.rules[0].burst == 2
    assert rig.board.reads == [(first.version, True, False), (adopted.version, True, True)]
    assert rig.board.records == [
        {"setting": "ratelimit_policy", "before": first.version, "now": adopted.version}
    ]


async def test_a_bad_file_keeps_the_old_policy_and_says_so(rig: Rig) -> None:
    first = rig.watch.first()
    rig.path.write_text("version: 1\nrules: [{name: a}]")
    for _ in range(3):
        await rig.watch.look()
    assert rig.adopted == []
    serving, detail = rig.board.health
    assert not serving
    assert "`rules[0].limit` is missing" in detail
    assert first.version in detail
    assert rig.board.reads[1:] == [(first.version, False, True)]
    assert len(rig.board.records) == 1
    assert rig.board.records[0]["keeps"] == first.version
    rig.path.write_text(GOOD)
    await rig.watch.look()
    assert rig.board.health == (True, "")
    assert len(rig.board.records) == 1


async def test_a_file_that_is_gone_keeps_the_old_policy(rig: Rig) -> None:
    rig.watch.first()
    rig.path.unlink()
    await rig.watch.look()
    assert "cannot read" in rig.board.health[1]
    assert rig.adopted == []


async def test_a_swapped_link_is_a_change(rig: Rig, tmp_path: Path) -> None:
    """Kubernetes swaps a link to a directory; size and times may be the same."""
    (tmp_path / "new.yaml").write_text(OTHER)
    rig.watch.first()
    (tmp_path / "link").symlink_to(tmp_path / "new.yaml")
    (tmp_path / "link").replace(rig.path)
    await rig.watch.look()
    assert len(rig.adopted) == 1


def test_the_first_file_must_be_good(rig: Rig) -> None:
    rig.path.write_text("version: 1\nrules: 7")
    with pytest.raises(PolicyError, match="rules"):
        rig.watch.first()
    rig.path.unlink()
    with pytest.raises(OperatorFileError, match="cannot read"):
        rig.watch.first()
