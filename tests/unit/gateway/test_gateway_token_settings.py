"""What decides about tokens: refused by name where it cannot work, or believes too much."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest

from services.common.clock import SystemClock
from services.common.settings import SettingsError, load
from services.gateway.authorization_wiring import open_authorizer
from services.gateway.configuration_reports import ConfigurationReports
from services.gateway.settings import GatewaySettings
from services.gateway.token_wiring import open_tokens
from tests.fakes.tokens import ED_KEY, RSA_KEY, public_pem, token

PEM = public_pem(RSA_KEY).decode()
PRODUCTION = {
    "ENVIRONMENT": "production",
    "WEAVER_TLS_DIR": "/etc/weaver/tls",
    "WEAVER_AUTH_MODE": "jwt",
    "WEAVER_JWT_JWKS_URL": "https://id.example.com/jwks.json",
    "WEAVER_JWT_AUDIENCE": "weaver",
}


class Silent:
    """Hears everything and says nothing."""

    def keys_read(self, source: str, problem: str, before: str, now: str) -> None:
        assert (source, problem, before) == ("files", "", "")
        assert now

    def roles_read(self, problem: str, before: str, now: str) -> None:
        assert (problem, before) == ("", "")
        assert now


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> GatewaySettings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(GatewaySettings)


def test_production_believes_an_issuer_over_https(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(monkeypatch, **PRODUCTION).jwt_audience == ("weaver",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WEAVER_JWT_JWKS_URL", "http://id.example.com/jwks.json"),
        ("WEAVER_JWT_JWKS_URL", "ftp://id.example.com/jwks.json"),
        ("WEAVER_JWT_JWKS_URL", "file:///etc/passwd"),
        ("WEAVER_JWT_JWKS_URL", "https://"),
        ("WEAVER_JWT_JWKS_URL", "https://[bad"),
        ("WEAVER_JWT_JWKS_URL", "https://host:port/"),
        ("WEAVER_JWT_JWKS_URL", "https://user:secret@id.example.com/"),  # pragma: allowlist secret
        ("WEAVER_JWT_JWKS_URL", "https://id.example.com/#x"),
        ("WEAVER_JWT_AUDIENCE", ""),
        ("WEAVER_JWT_ALGORITHMS", "HS256"),
        ("WEAVER_JWT_ALGORITHMS", "none"),
        ("WEAVER_JWT_ALGORITHMS", ""),
        ("WEAVER_JWT_ALGORITHMS", "RS256 ES256"),
        ("WEAVER_JWT_ISSUER", "apikey"),
        ("WEAVER_JWT_LEEWAY_SECONDS", "301"),
        ("WEAVER_JWT_LEEWAY_SECONDS", "-1"),
        ("WEAVER_JWT_ROLES_CLAIM", ""),
        ("WEAVER_JWT_JWKS_REFRESH_SECONDS", "0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=variable) as caught:
        settings(monkeypatch, **{**PRODUCTION, variable: value})
    assert "secret" not in str(caught.value)


def test_development_may_use_an_issuer_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings(
        monkeypatch, WEAVER_AUTH_MODE="jwt", WEAVER_JWT_JWKS_URL="http://127.0.0.1:1/jwks"
    )


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({}, "WEAVER_JWT_PUBLIC_KEY: .* a public key is needed"),
        ({"WEAVER_JWT_PUBLIC_KEY": ""}, "a public key is needed"),
        ({"WEAVER_JWT_KEYS_PATH": "", "WEAVER_JWT_JWKS_URL": ""}, "a public key is needed"),
        ({"WEAVER_JWT_PUBLIC_KEY": "no key"}, "WEAVER_JWT_PUBLIC_KEY: holds no public key"),
        (
            {"WEAVER_JWT_PUBLIC_KEY": PEM, "WEAVER_JWT_ALGORITHMS": "EdDSA"},
            "WEAVER_JWT_ALGORITHMS: the key in WEAVER_JWT_PUBLIC_KEY is for PS256",
        ),
        ({"WEAVER_JWT_KEYS_PATH": "/nowhere"}, "WEAVER_JWT_KEYS_PATH: cannot read /nowhere"),
        (
            {"WEAVER_JWT_JWKS_URL": "https://localhost:1/", "WEAVER_JWT_JWKS_CA": "no PEM \u00e9"},
            "WEAVER_JWT_JWKS_CA: holds no certificates",
        ),
    ],
)
async def test_keys_that_cannot_verify_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], why: str
) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsError, match=why):
            _open(settings(monkeypatch, WEAVER_AUTH_MODE="jwt", **variables), stack)


def _open(read: GatewaySettings, stack: AsyncExitStack) -> object:
    return open_tokens(read, stack, SystemClock(), cast("ConfigurationReports", Silent()))


async def test_keys_of_a_setting_and_of_files_work_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ed.pem").write_bytes(public_pem(ED_KEY))
    read = settings(
        monkeypatch,
        WEAVER_AUTH_MODE="jwt",
        WEAVER_JWT_PUBLIC_KEY=PEM.replace("\n", "\\n"),
        WEAVER_JWT_KEYS_PATH=str(tmp_path),
        WEAVER_JWT_ALGORITHMS="RS256, EdDSA",
        WEAVER_JWT_DEFAULT_ROLES="",
        WEAVER_JWT_JWKS_CA="",
    )
    exp = 4_000_000_000
    async with AsyncExitStack() as stack:
        tokens = open_tokens(read, stack, SystemClock(), cast("ConfigurationReports", Silent()))
        who = await tokens.principal(token(header={"kid": "whatever"}, roles=..., exp=exp))
        assert (who.tenant, who.roles) == ("default", ())
        assert await tokens.principal(token("EdDSA", header={"kid": "ed"}, exp=exp))


async def test_a_bad_file_of_roles_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text("version: 1\nroles: {a: {surface: []}}")
    variables = {"WEAVER_ALLOWED_API_KEYS": "k", "WEAVER_ROLES_FILE": str(path)}
    read = settings(monkeypatch, **variables)
    async with AsyncExitStack() as stack:
        with pytest.raises(SettingsError, match=r"WEAVER_ROLES_FILE: .*unknown field `surface`"):
            open_authorizer(read, stack, Silent().roles_read)
        path.write_text("version: 1\nroles: {a: {administration: read}}")
        assert "a" in open_authorizer(read, stack, Silent().roles_read).policy.roles
        unset = settings(monkeypatch, WEAVER_ROLES_FILE="")
        assert "user" in open_authorizer(unset, stack, Silent().roles_read).policy.roles
