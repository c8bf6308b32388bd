"""What the gateway refuses to start with, by the variable's name."""

import pytest

from services.common.settings import SettingsError, load
from services.gateway.settings import GatewaySettings

PRODUCTION = {
    "ENVIRONMENT": "production",
    "WEAVER_TLS_DIR": "/etc/weaver/tls",
    "WEAVER_AUTH_MODE": "api_key",
    "WEAVER_ALLOWED_API_KEYS": "0123456789abcdef0123456789abcdef",  # pragma: allowlist secret
}


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> GatewaySettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(GatewaySettings)


def test_production_starts_with_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, **PRODUCTION).production


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEAVER_ALLOWED_API_KEYS", ""),
        ("WEAVER_ALLOWED_API_KEYS", "dev-key-123"),
        ("WEAVER_ALLOWED_API_KEYS", "wv-dev-uCpKVuI7f8E-ZKU4wFCytkOjN9AVPL0C"),
        ("WEAVER_PII_REDACT", "false"),
        ("WEAVER_MTLS_ENABLED", "false"),
        ("WEAVER_AUTH_MODE", "none"),
        ("WEAVER_AUTH_MODE", ""),
        ("WEAVER_REQUEST_MAX_TOKENS", "0"),
        ("WEAVER_REQUEST_TIMEOUT_MS", "soon"),
        ("WEAVER_JWT_ALGORITHMS", "RS256,HS256"),
        ("WEAVER_JWT_ALGORITHMS", "none"),
    ],
)
def test_what_production_must_not_run_with_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(monkeypatch, **{**PRODUCTION, variable: value})
    assert variable in str(caught.value)
    assert not value or len(value) < 8 or value not in str(caught.value)


def test_tokens_need_a_public_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="WEAVER_JWT_PUBLIC_KEY"):
        settings(monkeypatch, WEAVER_AUTH_MODE="jwt,api_key", WEAVER_ALLOWED_API_KEYS="k")
