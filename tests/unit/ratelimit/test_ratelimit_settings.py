"""The limiter's settings: what stops the start, and what the address never shows."""

from pathlib import Path

import pytest

from services.common.settings import SettingsError, load
from services.common.valkey_settings import address
from services.ratelimit.settings import RatelimitSettings


def test_the_guides_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(RatelimitSettings)
    assert (settings.rps, settings.burst, settings.tokens_per_minute) == (5, 10, 0)
    assert settings.on_store_failure == "local"
    assert settings.allowed_clients == {"gateway", "envoy"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEAVER_RATELIMIT_RPS", "0"),
        ("WEAVER_RATELIMIT_RPS", "fast"),
        ("WEAVER_RATELIMIT_BURST", "0"),
        ("WEAVER_RATELIMIT_ON_STORE_FAILURE", "ignore"),
        ("REDIS_PORT", "70000"),
    ],
)
def test_a_bad_value_stops_the_start_with_the_variables_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load(RatelimitSettings)


def test_production_needs_a_shared_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("WEAVER_TLS_DIR", str(tmp_path))
    with pytest.raises(SettingsError, match="REDIS_HOST"):
        load(RatelimitSettings)
    monkeypatch.setenv("REDIS_HOST", "valkey.internal")
    assert load(RatelimitSettings).redis_host == "valkey.internal"


def test_the_password_comes_from_a_file_and_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(secret))
    settings = load(RatelimitSettings)
    where = address(settings, client="test")
    assert where.password == "open sesame"
    assert "sesame" not in repr(where) + str(where) + repr(settings)


def test_a_ca_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_TLS", "true")
    monkeypatch.setenv("REDIS_TLS_CA", "/nonexistent/ca.pem")
    with pytest.raises(SettingsError, match="REDIS_TLS_CA"):
        address(load(RatelimitSettings), client="test")
