"""What the environment declares, and what it must not."""

from pathlib import Path

import pytest

from services.common.settings import SettingsError, load
from services.model.declaration import Key
from services.model.environment import declared, gate
from services.model.gate import GatePolicy
from services.model.settings import ModelSettings

OPENAI = {"provider": "openai", "model_name": "gpt", "api_key": "sk-1"}


def settings(**changes: object) -> ModelSettings:
    return load(ModelSettings, **changes)


def test_one_provider_makes_one_model_with_one_target() -> None:
    found = declared(settings(**OPENAI, input_price_micros=5, max_connections=9, queue=3))

    (provider,), (model,) = found.providers, found.models
    assert (provider.name, provider.kind) == ("openai", "openai")
    assert provider.endpoint == "https://api.openai.com/v1"
    assert provider.key == Key("sk-1")
    assert provider.gate == GatePolicy(9, 3, 1.0)
    (target,) = model.targets
    assert (model.name, target.provider, target.model) == ("gpt", "openai", "gpt")
    assert target.prices.input_micros == 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "max_completion_tokens"),
        ({"endpoint": "https://eu.api.openai.com/v1"}, "max_completion_tokens"),
        (
            {"provider": "azure", "endpoint": "https://x.openai.azure.com"},
            "max_completion_tokens",
        ),
        ({"endpoint": "http://127.0.0.1:11434/v1"}, "max_tokens"),
        ({"endpoint": "https://api.groq.com/openai/v1"}, "max_tokens"),
        ({"endpoint": "https://api.openai.com.example/v1"}, "max_tokens"),
        (
            {"endpoint": "http://proxy/v1", "output_limit": "max_completion_tokens"},
            "max_completion_tokens",
        ),
    ],
)
def test_the_limit_of_an_answer_has_the_name_that_the_server_knows(
    changes: dict[str, str], field: str
) -> None:
    """Several servers ignore OpenAI's newer name without a word."""
    (provider,) = declared(settings(**{**OPENAI, **changes})).providers
    assert provider.limit_field == field


def test_the_fallback_is_the_second_target() -> None:
    found = declared(
        settings(
            **OPENAI,
            fallback_provider="anthropic",
            fallback_name="claude",
            fallback_api_key="sk-2",
            fallback_output_price_micros=7,
        )
    )

    assert [one.name for one in found.providers] == ["openai", "anthropic"]
    assert found.providers[1].endpoint == "https://api.anthropic.com/v1"
    _, second = found.models[0].targets
    assert (second.provider, second.model, second.prices.output_micros) == (
        "anthropic",
        "claude",
        7,
    )


def test_a_fallback_of_the_same_kind_has_a_name_of_its_own() -> None:
    found = declared(
        settings(
            **OPENAI,
            fallback_provider="openai",
            fallback_name="gpt-mini",
            fallback_endpoint="http://local/v1",
        )
    )

    assert [one.name for one in found.providers] == ["openai", "openai-fallback"]


def test_azure_needs_its_endpoint_and_has_a_version() -> None:
    endpoint = "https://r.openai.azure.com"
    named = settings(provider="azure", model_name="d", endpoint=endpoint, api_key="k")
    implied = settings(**OPENAI, endpoint=endpoint, api_version="2025-01-01")

    assert declared(named).providers[0].api_version == "2024-10-21"
    assert declared(implied).providers[0].kind == "azure"
    assert declared(implied).providers[0].api_version == "2025-01-01"


def test_key_files_are_followed_and_not_just_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    path.write_text("sk-file\n")
    monkeypatch.setenv("WEAVER_MODEL_API_KEY_FILE", str(path))
    monkeypatch.setenv("WEAVER_MODEL_FALLBACK_API_KEY_FILE", str(path))

    found = declared(
        settings(
            provider="openai",
            model_name="gpt",
            fallback_provider="anthropic",
            fallback_name="claude",
        )
    )

    assert [one.key.path for one in found.providers] == [path, path]
    assert "sk-file" not in repr(found)


def test_a_route_file_may_stand_alone() -> None:
    alone = settings(routes_file="/routes.yaml")
    beside = settings(routes_file="/routes.yaml", **OPENAI)

    assert declared(alone).models == ()
    assert [model.name for model in declared(beside).models] == ["gpt"]
    assert gate(alone) == GatePolicy(1000, 100, 1.0)


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"fallback_name": "x"}, "WEAVER_MODEL_FALLBACK_NAME"),
        ({"fallback_api_key": "x"}, "WEAVER_MODEL_FALLBACK_API_KEY"),
        ({"fallback_endpoint": "http://x"}, "WEAVER_MODEL_FALLBACK_ENDPOINT"),
        ({"fallback_provider": "openai", "fallback_api_key": "k"}, "WEAVER_MODEL_FALLBACK_NAME"),
        ({"fallback_provider": "anthropic", "fallback_name": "m"}, "WEAVER_MODEL_FALLBACK_API_KEY"),
        ({"fallback_provider": "azure", "fallback_name": "m"}, "WEAVER_MODEL_FALLBACK_ENDPOINT"),
        ({"fallback_endpoint": "ftp://x"}, "WEAVER_MODEL_FALLBACK_ENDPOINT"),
        ({"fallback_provider": "other"}, "WEAVER_MODEL_FALLBACK_PROVIDER"),
        ({"api_key": "a\nb"}, "WEAVER_MODEL_API_KEY"),
        ({"api_version": "a&b"}, "WEAVER_MODEL_API_VERSION"),
        ({"breaker_failures": -1}, "WEAVER_MODEL_BREAKER_FAILURES"),
    ],
)
def test_what_cannot_work_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], variable: str
) -> None:
    for name, value in (OPENAI | changes).items():
        alias = ModelSettings.model_fields[name].validation_alias
        monkeypatch.setenv(str(alias), str(value))

    with pytest.raises(SettingsError, match=variable) as caught:
        settings()
    assert "a\nb" not in str(caught.value)


def test_a_fallback_without_a_first_provider_is_refused() -> None:
    with pytest.raises(SettingsError, match="WEAVER_MODEL_FALLBACK_PROVIDER: belongs to"):
        settings(routes_file="/r", fallback_provider="stub")


def test_production_refuses_a_stub_to_fall_back_to(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WEAVER_MODEL_FALLBACK_PROVIDER: production refuses"):
        settings(**OPENAI, fallback_provider="stub", environment="production", tls_dir=tmp_path)
