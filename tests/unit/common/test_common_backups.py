"""What services tell Prometheus of backups."""

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from services.common.backups import BackupMetrics, Standing, read, read_fields


def shown(metrics: BackupMetrics) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }


def test_a_backup_that_never_was_made_shows_as_the_oldest_there_can_be() -> None:
    known = {"keys": Standing(1_700_000_000.0, 5), "drill": Standing(1_600_000_000.0)}
    assert shown(BackupMetrics(("keys", "side-store"), lambda: known)) == {
        'backup_last_success_time_seconds{kind="keys"}': 1_700_000_000.0,
        'backup_last_success_time_seconds{kind="side-store"}': 0.0,
        'backup_size_bytes{kind="keys"}': 5.0,
        'backup_size_bytes{kind="side-store"}': 0.0,
        "recovery_drill_last_success_time_seconds": 1_600_000_000.0,
    }


def test_what_cannot_be_known_now_is_not_told() -> None:
    assert shown(BackupMetrics(("redis",), lambda: None)) == {}


def test_damage_says_nothing() -> None:
    assert read(b"{") == read(b'{"keys": 3}') == {}
    good = msgspec.json.encode(Standing(2.0, 1))
    fields: dict[object, object] = {b"redis": good, b"keys": b"{", "drill": good}
    assert read_fields(fields) == {"redis": Standing(2.0, 1)}
    assert read(b'{"redis":' + good + b"}") == {"redis": Standing(2.0, 1)}
