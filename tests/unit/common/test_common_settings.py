"""Settings: from the environment, from files, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from services.common.clock import SystemClock
from services.common.settings import (
    CommaSeparated,
    CommonSettings,
    SettingsError,
    load,
    load_or_exit,
    pem,
    split_address,
)


class Settings(CommonSettings):
    """Some service's settings."""

    clients: CommaSeparated = Field(default=("gateway",), validation_alias="TEST_CLIENTS")
    key: SecretStr = Field(default=SecretStr(""), validation_alias="TEST_KEY")


def test_the_defaults_are_those_of_development() -> None:
    settings = load(Settings)
    assert not settings.production
    assert settings.mtls_enabled
    assert str(settings.tls_path) == ".weaver/tls"


def test_a_bad_value_is_named_by_its_variable_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WEAVER_DRAIN_SECONDS", "sesame")
    with pytest.raises(SettingsError, match="WEAVER_DRAIN_SECONDS") as caught:
        load(Settings)
    assert "sesame" not in str(caught.value)


def test_a_bad_value_ends_the_process_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "moon")
    with pytest.raises(SystemExit) as caught:
        load_or_exit(Settings)
    assert caught.value.code == 2
    assert "ENVIRONMENT" in capsys.readouterr().err


def test_good_values_start() -> None:
    assert load_or_exit(Settings, environment="staging").environment == "staging"


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("WEAVER_MTLS_ENABLED", {"mtls_enabled": False}), ("WEAVER_TLS_DIR", {})],
)
def test_production_refuses_what_development_allows(name: str, overrides: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=name):
        load(Settings, environment="production", **overrides)


def test_production_starts_with_certificates_of_its_own(tmp_path: Path) -> None:
    settings = load(Settings, environment="production", tls_dir=tmp_path)
    assert settings.tls_path == tmp_path


def test_a_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sesame\n")
    monkeypatch.setenv("TEST_KEY_FILE", str(path))
    assert load(Settings).key.get_secret_value() == "sesame"


def test_a_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEST_KEY_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="TEST_KEY_FILE"):
        load(Settings)


def test_a_secret_cannot_come_from_two_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TEST_KEY_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("TEST_KEY", "x")
    with pytest.raises(SettingsError, match="both set"):
        load(Settings)


def test_a_list_is_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_CLIENTS", "gateway, model,,")
    assert load(Settings).clients == ("gateway", "model")
    assert load(Settings, clients=("a",)).clients == ("a",)


def test_pem_values_may_have_written_out_line_ends() -> None:
    assert pem(SecretStr(r"a\nb")) == b"a\nb"
    assert pem("a\nb") == b"a\nb"


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:8000", ("127.0.0.1", 8000)), ("[::1]:0", ("::1", 0)), ("audit:1", ("audit", 1))],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address, "X") == parts


@pytest.mark.parametrize("address", ["", "8000", ":8000", "host:", "host:-1", "host:65536", "h:x"])
def test_what_is_no_address_is_refused_with_the_variable(address: str) -> None:
    with pytest.raises(SettingsError, match="WEAVER_X_LISTEN"):
        split_address(address, "WEAVER_X_LISTEN")


def test_the_system_clock_moves_forward() -> None:
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.time() > 1_700_000_000
