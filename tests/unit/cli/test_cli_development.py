"""What a development environment adds, and what it leaves as it is set."""

import stat
from pathlib import Path

import jwt
import pytest

from services.cli import development
from services.cli.token import mint, seconds
from services.common.settings import SettingsError


def added(**environment: str) -> dict[str, str]:
    return development.defaults(environment, Path("/state"), Path("/sockets"))


def test_the_guides_defaults_are_added() -> None:
    found = added()
    assert found["WEAVER_MODEL_PROVIDER"] == "stub"
    assert found["WEAVER_MODEL_NAME"] == "stub-model"
    assert (found["WEAVER_RATELIMIT_RPS"], found["WEAVER_RATELIMIT_BURST"]) == ("100", "200")
    assert found["WEAVER_AUTH_MODE"] == "api_key,jwt"
    assert found["WEAVER_GATEWAY_EDGE_LISTEN"] == "unix:/sockets/gateway.sock"


def test_a_variable_that_is_set_wins() -> None:
    mine = {"WEAVER_RATELIMIT_RPS": "7", "LOG_LEVEL": "DEBUG", "WEAVER_AUTH_MODE": ""}
    assert not mine.keys() & added(**mine).keys()


@pytest.mark.parametrize("name", ["WEAVER_ALLOWED_API_KEYS", "WEAVER_ALLOWED_API_KEYS_FILE"])
def test_own_api_keys_replace_the_development_key(name: str) -> None:
    assert "WEAVER_ALLOWED_API_KEYS_FILE" not in added(**{name: "x"})
    assert added()["WEAVER_ALLOWED_API_KEYS_FILE"] == "/state/keys/dev-api-key"


@pytest.mark.parametrize("name", ["WEAVER_JWT_PUBLIC_KEY", "WEAVER_JWT_PUBLIC_KEY_FILE"])
def test_an_own_issuer_replaces_the_development_one_whole(name: str) -> None:
    assert not {"WEAVER_JWT_PUBLIC_KEY_FILE", "WEAVER_JWT_ISSUER", "WEAVER_JWT_AUDIENCE"} & set(
        added(**{name: "x"})
    )


def test_another_provider_does_not_get_the_stubs_model() -> None:
    assert "WEAVER_MODEL_NAME" not in added(WEAVER_MODEL_PROVIDER="openai")


def test_neighbours_are_found_where_they_listen() -> None:
    found = added(WEAVER_AUDIT_LISTEN="127.0.0.1:5003", WEAVER_MODEL_ADDRESS="elsewhere:1")
    assert found["WEAVER_AUDIT_ADDRESS"] == "127.0.0.1:5003"
    assert found["WEAVER_RATELIMIT_ADDRESS"] == "127.0.0.1:8001"
    assert "WEAVER_MODEL_ADDRESS" not in found


@pytest.mark.parametrize("kind", ["production", "staging", "Production", ""])
def test_it_refuses_anything_but_development(kind: str) -> None:
    with pytest.raises(SettingsError, match="ENVIRONMENT"):
        development.refuse_elsewhere({"ENVIRONMENT": kind})
    development.refuse_elsewhere({"ENVIRONMENT": "development"})
    development.refuse_elsewhere({})


def test_keys_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    development.ensure_keys(tmp_path)
    keys = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert set(keys) == {"dev-api-key", "dev-jwt.pem", "dev-jwt.pub.pem"}
    for name, mode in (("dev-api-key", 0o600), ("dev-jwt.pem", 0o600), ("dev-jwt.pub.pem", 0o644)):
        assert stat.S_IMODE((tmp_path / "keys" / name).stat().st_mode) == mode
    development.ensure_keys(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == keys
    assert development.api_key(tmp_path).startswith("wv-dev-")


def test_a_missing_key_is_explained(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="start `weaver up` once"):
        development.api_key(tmp_path)


def test_a_minted_token_says_who_and_verifies(tmp_path: Path) -> None:
    development.ensure_keys(tmp_path)
    private = (tmp_path / "keys" / development.JWT_KEY).read_bytes()
    public = (tmp_path / "keys" / development.JWT_PUBLIC_KEY).read_bytes()
    claims = jwt.decode(
        mint(private, "alice", "acme", ["auditor"], 60),
        public,
        algorithms=["RS256"],
        audience="weaver",
        issuer="weaver-dev",
    )
    assert (claims["sub"], claims["tenant"], claims["roles"]) == ("alice", "acme", ["auditor"])
    assert claims["exp"] - claims["iat"] == 60
    assert claims["nbf"] == claims["iat"]


@pytest.mark.parametrize(
    ("text", "length"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604800)]
)
def test_a_length_of_time_is_read(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "1.5h", "0s", "366d", "1 h", "9999999999d"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--ttl"):
        seconds(text)
