"""What is told of files and keys that were read again: to health, metrics and the log."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from services.common.health import Health
from services.gateway.configuration_reports import ConfigurationReports


def test_a_refused_change_shows_everywhere_and_a_first_good_reading_is_no_change() -> None:
    registry, health = CollectorRegistry(), Health()
    recorded: list[Mapping[str, str]] = []
    reports = ConfigurationReports(registry, health, recorded.append)

    def good() -> float | None:
        labels = {"setting": "roles"}
        return registry.get_sample_value("weaver_gateway_configuration_good", labels)

    reports.roles_read("", "", "v1")
    assert (recorded, good(), health.snapshot()["roles"]) == ([], 1, (True, ""))
    reports.roles_read("bad", "v1", "v1")
    assert recorded == [{"setting": "roles", "refused": "bad", "keeps": "v1"}]
    assert (good(), health.snapshot()["roles"]) == (0, (False, "bad"))
    reports.roles_read("", "v1", "v1")
    assert (len(recorded), good(), health.snapshot()["roles"]) == (1, 1, (True, ""))
    reports.roles_read("", "v1", "v2")
    assert recorded[1:] == [{"setting": "roles", "before": "v1", "now": "v2"}]


def test_an_issuer_that_cannot_be_reached_at_first_shows() -> None:
    registry, health = CollectorRegistry(), Health()
    recorded: list[Mapping[str, str]] = []
    reports = ConfigurationReports(registry, health, recorded.append)
    reports.watch_age(lambda: 7.0)
    assert registry.get_sample_value("weaver_gateway_jwks_age_seconds") == 7
    reports.keys_read("jwks", "the issuer answered 500", "", "")
    assert health.snapshot()["jwt_keys.jwks"] == (False, "the issuer answered 500")
    reports.keys_read("jwks", "", "", "v1")
    assert health.snapshot()["jwt_keys.jwks"] == (True, "")
    reports.keys_read("jwks", "", "v1", "v2")
    assert [change["setting"] for change in recorded] == ["jwt_keys.jwks"] * 2
