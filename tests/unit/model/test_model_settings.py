"""Settings, metrics and wiring."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.common.settings import SettingsError, load
from services.model.call import Usage
from services.model.metrics import ProviderMetrics
from services.model.settings import ModelSettings
from services.model.wiring import build
from tests.fakes.instant import run


def test_the_defaults_are_the_stub_on_its_port() -> None:
    settings = load(ModelSettings)

    assert (settings.provider, settings.model_name) == ("stub", "stub-model")
    assert settings.listen == "127.0.0.1:8002"
    assert settings.allowed_clients == ("gateway",)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"WEAVER_MODEL_PROVIDER": "oracle"}, "WEAVER_MODEL_PROVIDER"),
        ({"WEAVER_MODEL_PROVIDER": "openai"}, "WEAVER_MODEL_NAME"),
        ({"WEAVER_MODEL_PROVIDER": "openai", "WEAVER_MODEL_NAME": "m"}, "WEAVER_MODEL_API_KEY"),
        ({"WEAVER_MODEL_ENDPOINT": "ftp://x"}, "WEAVER_MODEL_ENDPOINT"),
        (
            # pragma: allowlist nextline secret
            {"WEAVER_MODEL_ENDPOINT": "http://user:pw@x/v1"},
            "WEAVER_MODEL_ENDPOINT",
        ),
        ({"WEAVER_MODEL_ENDPOINT": "http://x/v1?key=1"}, "WEAVER_MODEL_ENDPOINT"),
        ({"WEAVER_MODEL_RETRIES": "-1"}, "WEAVER_MODEL_RETRIES"),
        ({"ENVIRONMENT": "production", "WEAVER_TLS_DIR": "tls"}, "WEAVER_MODEL_PROVIDER"),
    ],
)
def test_bad_settings_stop_the_start_with_the_variables_name(
    environment: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=named) as caught:
        load(ModelSettings)
    assert "pw" not in str(caught.value)


def test_the_key_comes_from_a_file_and_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("sk-secret\n")
    monkeypatch.setenv("WEAVER_MODEL_API_KEY_FILE", str(tmp_path / "key"))

    settings = load(ModelSettings, provider="openai", model_name="m")

    assert settings.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings)


def test_a_server_that_speaks_openais_api_needs_no_key() -> None:
    settings = load(
        ModelSettings, provider="openai", model_name="m", endpoint="http://127.0.0.1:1/v1/"
    )

    assert settings.endpoint == "http://127.0.0.1:1/v1"


def test_metrics_bound_their_labels() -> None:
    registry = CollectorRegistry()
    metrics = ProviderMetrics(registry, {("one", "m")})

    metrics.attempt("one", "m", "ok", 1.0)
    metrics.attempt("one", "chosen by a caller", "ok", 1.0)
    metrics.tokens("one", "m", Usage(3, 4), 7)
    metrics.first_byte("one", "m", 0.1)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("llm_api_calls_total", provider="one", model="m", status="ok") == 1
    assert value("llm_api_calls_total", provider="other", model="other", status="ok") == 1
    assert value("llm_tokens_total", provider="one", model="m", direction="output") == 4
    assert value("llm_api_duration_seconds_count", provider="one", model="m") == 1
    assert value("llm_time_to_first_byte_seconds_count", provider="one", model="m") == 1


@pytest.mark.parametrize("key", ["", "sk-1"])
def test_the_component_says_that_it_serves(key: str) -> None:
    async def main() -> dict[str, tuple[bool, str]]:
        async with AsyncExitStack() as stack:
            settings = load(
                ModelSettings,
                provider="openai",
                model_name="m",
                endpoint="http://127.0.0.1:1/v1",
                api_key=key,
                audit_address="",
            )
            component = await build(settings, stack)
            assert component.name == "model"
            return component.health.snapshot()

    states = run(main())
    assert states[""][0]
    assert states["provider:openai"] == (True, "not asked yet")
