"""Clocks, certificates' ages and backups' ages, judged without waiting for them to pass."""

import datetime as dt
import time
from pathlib import Path

import pytest

from services.audit.layout import Layout
from services.cli.doctor import certificates, clocks, upkeep
from services.cli.doctor.finding import duration
from services.cli.doctor.surroundings import Sample, Scrape, Surroundings
from services.common.backups import BESIDE_THE_LOG
from services.common.certificates import ensure
from services.common.settings import CommonSettings


@pytest.mark.parametrize(
    ("ahead", "doubt", "state"),
    [
        (0.2, 0.1, "good"),
        (-0.9, 0.0, "good"),
        (2.0, 0.1, "warning"),
        (5.5, 2.0, "warning"),
        (5.5, 0.1, "bad"),
        (-86_400.0, 1.0, "bad"),
    ],
)
def test_a_clock_that_is_off_is_found(ahead: float, doubt: float, state: str) -> None:
    """It is measured against how long the question took."""
    finding = clocks._compared("audit", ahead, doubt)
    assert finding.state == state
    if state != "good":
        assert ("ahead of" if ahead > 0 else "behind") in finding.what
        assert finding.page == "alerts/ClockSkew.md"


@pytest.mark.parametrize(
    ("days", "state", "page"),
    [
        (0, "good", ""),
        (84, "warning", "alerts/CertificateExpiring.md"),
        (91, "bad", "alerts/CertificateExpired.md"),
        (-1, "bad", "alerts/ClockSkew.md"),
    ],
)
def test_a_certificate_that_ends_or_has_not_begun_is_found(
    tmp_path: Path, days: int, state: str, page: str
) -> None:
    settings = CommonSettings(state_dir=tmp_path)
    made = dt.datetime.now(dt.UTC) - dt.timedelta(days=days)
    ensure(settings, now=made)
    loaded = certificates._load(settings.tls_path / "front.pem")
    assert loaded is not None
    finding = certificates._age("front.pem", loaded)
    assert (finding.state, finding.page) == (state, page)


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no store to ask."""
    monkeypatch.setattr(upkeep, "_in_the_store", dict)


def around(tmp_path: Path, samples: dict[str, list[Sample]]) -> Surroundings:
    found = Surroundings("", {}, tmp_path / "log")
    found.__dict__["scrapes"] = {"audit": Scrape(samples, time.time(), 0.0)}
    return found


def told(tmp_path: Path, keys: float, drill: float) -> dict[str, list[Sample]]:
    return {
        "backup_last_success_time_seconds": [Sample({"kind": "keys"}, keys)],
        "recovery_drill_last_success_time_seconds": [Sample({}, drill)],
        "audit_archive_last_success_time_seconds": [Sample({}, time.time() - 60)],
    }


def test_what_operators_owe_is_named_with_the_command_that_does_it(tmp_path: Path) -> None:
    old = time.time() - 30 * 3_600
    place = around(tmp_path, told(tmp_path, old, 0.0))
    found = {f.what: f for f in upkeep.copies(place, production=True)}
    assert found["the last archive of the log is 60.0 seconds old"].state == "good"
    states = {finding.act.split(" --")[0]: finding.state for finding in found.values()}
    assert states["weaver backup keys"] == "bad"
    assert states["weaver backup redis"] == "unknown"
    assert states["weaver backup drill"] == "bad"


@pytest.mark.parametrize(("kind", "owed"), [("development", False), ("staging", True)])
def test_development_owes_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, owed: bool
) -> None:
    monkeypatch.setenv("ENVIRONMENT", kind)
    place = around(tmp_path, told(tmp_path, 0.0, 0.0))
    states = [finding.state for finding in upkeep.copies(place, production=False)]
    assert ("bad" in states, "note" in states) == (owed, not owed)
    assert states[0] == "good"


def test_what_stands_beside_the_log_counts_when_it_is_newer(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "log")
    layout.private.mkdir()
    now = time.time()
    (layout.private / BESIDE_THE_LOG).write_text(f'{{"keys": {{"time": {now}, "size": 1}}}}')
    found = upkeep.standings(around(tmp_path, told(tmp_path, now - 90_000, 5.0)))
    assert found["keys"].time == now
    assert found["drill"].time == 5.0


def test_times_are_told_to_people() -> None:
    assert [duration(s) for s in (3.0, 150.0, 8_000.0, 864_000.0)] == [
        "3.0 seconds",
        "2 minutes",
        "2 hours",
        "10 days",
    ]
