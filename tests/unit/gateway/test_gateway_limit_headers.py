"""Limits in headers: valid structured fields, one rule of each unit for the vendors' clients."""

import pytest

from services.gateway.limit_headers import MOST_SHOWN, go_duration, limit_headers
from services.gateway.ports import LimitState

REQUESTS = LimitState("requests", "requests", 20, 19, 0.05, 2.0)
MINUTE = LimitState("tokens_per_minute", "tokens", 1000, 900, 6.0, 60.0)
DAY = LimitState("tokens_per_day", "tokens", 100_000, 50_000, 40_000.4, 86_400.0)
COST = LimitState("cost_per_day", "cost_micros", 10**15, 10**15, 40_000.4, 86_400.0)
SLOTS = LimitState("concurrency", "concurrency", 5, 4, 0.0, 0.0)


def test_each_rule_is_an_item_with_its_unit_and_window() -> None:
    headers = dict(limit_headers((DAY, MINUTE, REQUESTS, COST, SLOTS)))
    assert headers["ratelimit-policy"].split(", ") == [
        '"tokens_per_day";q=100000;qu="tokens";w=86400',
        '"tokens_per_minute";q=1000;qu="tokens";w=60',
        '"requests";q=20;w=2',
        '"cost_per_day";q=999999999999999;qu="cost-micros";w=86400',
        '"concurrency";q=5;qu="concurrent-requests"',
    ]
    assert headers["ratelimit"].split(", ") == [
        '"tokens_per_day";r=50000;t=40001',
        '"tokens_per_minute";r=900;t=6',
        '"requests";r=19;t=1',
        '"cost_per_day";r=999999999999999;t=40001',
        '"concurrency";r=4',
    ]


def test_vendors_clients_see_the_rule_that_stops_them_first_and_each_header_once() -> None:
    headers = limit_headers((DAY, MINUTE, REQUESTS))
    names = [name for name, _ in headers]
    assert len(names) == len(set(names))
    seen = dict(headers)
    assert seen["x-ratelimit-limit-tokens"] == "1000"
    assert seen["x-ratelimit-remaining-tokens"] == "900"
    assert seen["x-ratelimit-reset-tokens"] == "6s"
    assert seen["x-ratelimit-reset-requests"] == "50ms"


def test_the_rule_that_refuses_is_the_one_that_is_shown() -> None:
    refusing = LimitState("tokens_per_day", "tokens", 9999, 9000, 60.0, 86_400.0, refuses=True)
    seen = dict(limit_headers((MINUTE, refusing)))
    assert seen["x-ratelimit-remaining-tokens"] == "9000"


def test_rules_in_shadow_mode_are_not_shown() -> None:
    shadow = LimitState("trial", "tokens", 1, 0, 6.0, 60.0, shadow=True)
    assert limit_headers((shadow,)) == []
    assert all("trial" not in value for _, value in limit_headers((shadow, MINUTE)))
    assert dict(limit_headers((shadow, MINUTE)))["x-ratelimit-remaining-tokens"] == "900"


def test_rules_of_one_name_are_one_item() -> None:
    one = LimitState("team", "tokens", 10, 1, 1.0, 60.0, "role", "a")
    other = LimitState("team", "tokens", 10, 5, 1.0, 60.0, "role", "b", refuses=True)
    assert dict(limit_headers((one, other)))["ratelimit"] == '"team";r=5;t=1'
    assert dict(limit_headers((one, one)))["ratelimit"] == '"team";r=1;t=1'


def test_whatever_a_rule_is_called_the_value_stays_a_structured_field() -> None:
    odd = LimitState('a"b\\c\r\nü', "requests", 1, 1, 1.0, 1.0)
    assert dict(limit_headers((odd,)))["ratelimit"] == '"a\\"b\\\\c???";r=1;t=1'


def test_many_rules_are_cut_to_what_metadata_can_carry() -> None:
    many = [LimitState(f"rule_{number:034}", "tokens", 9, 9, 1.0, 60.0) for number in range(99)]
    headers = dict(limit_headers(many))
    assert headers["ratelimit"].count(";r=") == MOST_SHOWN
    assert sum(map(len, headers.values())) < 4096


def test_anthropic_clients_get_their_own() -> None:
    seen = dict(limit_headers((MINUTE, REQUESTS), lambda: 1_700_000_000.0))
    assert seen["anthropic-ratelimit-tokens-limit"] == "1000"
    assert seen["anthropic-ratelimit-tokens-remaining"] == "900"
    assert seen["anthropic-ratelimit-tokens-reset"] == "2023-11-14T22:13:26Z"
    assert seen["anthropic-ratelimit-requests-remaining"] == "19"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.02, "20ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (7322.25, "2h2m2.25s")],
)
def test_times_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert go_duration(seconds) == text
