"""Where managed keys are kept: every form of the address, and mistakes that quote no password."""

from pathlib import Path
from typing import Any

import pytest

from services.cli.apikeys.options import checked_id, seconds
from services.common.settings import SettingsError, load
from services.common.valkey_location import Fixed, Sentinels
from services.common.valkey_settings import address, location
from services.gateway.settings import GatewaySettings

PASSWORD = "pass:w/ord"  # pragma: allowlist secret
QUOTED = "pass%3Aw%2Ford"
PRODUCTION: dict[str, Any] = {
    "environment": "production",
    "tls_dir": "/tls",
    "state_dir": "/state",
}


def store(url: str, **settings: Any) -> Any:
    loaded = load(GatewaySettings, allowed_api_keys="k", api_key_store=url, **settings)
    return loaded.key_store


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://store", ("store", 6379, 0, "", "")),
        ("redis://store:7000/3", ("store", 7000, 3, "", "")),
        (f"redis://weaver:{QUOTED}@[::1]:7000", ("::1", 7000, 0, "weaver", PASSWORD)),
        (
            "redis://:pass%3Aw%2Ford@store",
            ("store", 6379, 0, "", PASSWORD),
        ),  # pragma: allowlist secret
    ],
)
def test_an_address_says_where_and_how_to_get_in(
    url: str, expected: tuple[str, int, int, str, str]
) -> None:
    where = address(store(url), client="c")
    found = (where.host, where.port, where.database, where.username, where.password)
    assert found == expected
    assert (where.unix_socket, where.tls) == (None, None)


def test_a_unix_socket_tls_and_sentinels_have_forms_of_their_own(tmp_path: Path) -> None:
    assert address(store("unix:///run/v.sock?db=2"), client="c").unix_socket == Path("/run/v.sock")
    assert address(store("rediss://store"), client="c").tls is not None
    with pytest.raises(SettingsError, match="cannot use"):
        address(store(f"rediss://store?ca={tmp_path}/none.pem"), client="c")
    followed = store("sentinel://u:p@a:1,b:2/keys?sentinel_password=s")  # pragma: allowlist secret
    assert followed.redis_sentinels == ("a:1", "b:2")
    assert followed.redis_sentinel_master == "keys"
    assert followed.redis_sentinel_password.get_secret_value() == "s"
    assert isinstance(location(followed, client="c", timeout_s=1), Sentinels)
    assert isinstance(location(store("redis://store"), client="c", timeout_s=1), Fixed)


@pytest.mark.parametrize(
    "url",
    [
        "store:6379",
        "http://u:of-the-store@store",  # pragma: allowlist secret
        "redis://",
        "redis://u:of-the-store@store:port",  # pragma: allowlist secret
        "redis://u:of-the-store@store/zero",  # pragma: allowlist secret
        "redis://u:of-the-store@store?tls=yes",  # pragma: allowlist secret
        "sentinel://u:of-the-store@a:1",  # pragma: allowlist secret
        "sentinel://u:of-the-store@a/keys",  # pragma: allowlist secret
    ],
)
def test_what_is_no_address_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        store(url)
    assert "WEAVER_API_KEY_STORE" in str(caught.value) or "REDIS_SENTINELS" in str(caught.value)
    assert "of-the-store" not in str(caught.value)


def test_the_limiter_s_store_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_HOST", raising=False)
    assert not load(GatewaySettings, allowed_api_keys="k").manages_api_keys
    monkeypatch.setenv("REDIS_HOST", "limits")
    settings = load(GatewaySettings, allowed_api_keys="k")
    assert settings.manages_api_keys
    assert settings.key_store.redis_host == "limits"
    assert not load(GatewaySettings, allowed_api_keys="k", managed_api_keys=False).manages_api_keys


def test_managed_keys_alone_are_enough_in_production() -> None:
    assert load(GatewaySettings, api_key_store="redis://store", **PRODUCTION).api_keys == ()
    with pytest.raises(SettingsError, match="WEAVER_ALLOWED_API_KEYS"):
        load(GatewaySettings, **PRODUCTION)


@pytest.mark.parametrize(
    ("text", "length"), [("90s", 90), ("12h", 43_200), ("1y", 31_536_000), ("never", 0)]
)
def test_a_length_of_time_is_read(text: str, length: int) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("text", ["", "0d", "1", "d", "-1d", "1.5h", "forever"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="2"):
        seconds(text)


def test_a_key_in_the_place_of_its_id_is_refused_before_it_is_sent() -> None:
    assert checked_id("key_0a1B2c3D4e5F") == "key_0a1B2c3D4e5F"
    with pytest.raises(Exception, match="2"):
        checked_id("wv_0a1B2c3D4e5F_x")
