"""The settings of the cache."""

from pathlib import Path

import pytest

from services.common.settings import SettingsError, load
from services.model.cache.settings import cache_place, cache_secret
from services.model.settings import ModelSettings

KEY = bytes(range(32))


def settings(**changes: object) -> ModelSettings:
    on = {"cache_enabled": True, "cache_address": "127.0.0.1:6380"}
    return load(ModelSettings, **{**on, **changes})


def test_the_cache_is_off() -> None:
    assert load(ModelSettings).cache_enabled is False


def test_the_cache_needs_a_store_of_its_own() -> None:
    with pytest.raises(SettingsError, match="WEAVER_MODEL_CACHE_ADDRESS: required"):
        settings(cache_address="")


def test_a_store_is_a_host_and_port_or_a_socket() -> None:
    place = cache_place(
        settings(cache_username="u", cache_password="p", cache_db=3)  # pragma: allowlist secret
    )
    assert (place.host, place.port, place.username, place.password, place.database) == (
        "127.0.0.1",
        6380,
        "u",
        "p",
        3,
    )
    assert place.tls is None
    assert place.client == "weaver-model-cache"
    for text in ("/run/x.sock", "unix:/run/x.sock"):
        assert cache_place(settings(cache_address=text)).unix_socket == Path("/run/x.sock")


def test_tls_is_for_the_network() -> None:
    assert cache_place(settings(cache_tls=True)).tls is not None
    assert cache_place(settings(cache_tls=True, cache_address="/run/x.sock")).tls is None
    with pytest.raises(SettingsError, match="WEAVER_MODEL_CACHE_TLS_CA: cannot use"):
        settings(cache_tls=True, cache_tls_ca="/nowhere.pem")


def test_an_address_that_is_none_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="WEAVER_MODEL_CACHE_ADDRESS: 'valkey' is not"):
        settings(cache_address="valkey")


@pytest.mark.parametrize(
    "text",
    [
        KEY.hex(),
        f"{KEY.hex()}\n",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",  # pragma: allowlist secret
    ],
)
def test_a_key_is_32_bytes(text: str) -> None:
    assert cache_secret(settings(cache_key=text)) == KEY


@pytest.mark.parametrize("text", ["short", KEY.hex()[:-2], "AAEC", "ü" * 32])
def test_another_key_stops_the_start_and_is_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError, match="WEAVER_MODEL_CACHE_KEY: must be 32") as caught:
        settings(cache_key=text)
    assert text not in str(caught.value)


def test_without_a_key_each_process_makes_one() -> None:
    assert cache_secret(settings()) != cache_secret(settings())
    assert len(cache_secret(settings())) == 32
