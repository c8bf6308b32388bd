"""A refusal says which rule, whose it is, how much it allows, and when to come back."""

import json

import pytest

from services.gateway import anthropic, openai
from services.gateway.calls import LimitExceeded
from services.gateway.events import LimitDecision
from services.gateway.http import error_trailers
from services.gateway.limit_sentences import duration
from services.gateway.ports import Admission, LimitState

DAY_S = 86_400.0


def refusal(state: LimitState | None, wait_s: float | None, surface: str = "") -> LimitExceeded:
    name = "rule" if state is None else state.name
    admission = Admission(
        b"", False, LimitDecision("refused", name), (state,) if state else (), wait_s
    )
    return LimitExceeded(admission, surface)


@pytest.mark.parametrize(
    ("scope", "key", "whose"),
    [
        ("principal", "", "Your own limit `rule`"),
        ("tenant", "acme", "of all callers of the tenant `acme`"),
        ("role", "batch", "of all callers of your tenant with the role `batch`"),
        ("model", "gpt", "of all callers of the model `gpt`"),
        ("global", "", "of all callers together"),
        ("", "", "The limit `rule` ("),
    ],
)
def test_a_refusal_says_whose_limit_it_is(scope: str, key: str, whose: str) -> None:
    state = LimitState("rule", "tokens", 1000, 3, 6.0, 60.0, scope, key, refuses=True)
    message = refusal(state, 1.23).message
    assert whose in message
    assert "(1000 tokens a minute) is used up. Try again in 1.3 s." in message


@pytest.mark.parametrize(
    ("unit", "limit", "window_s", "amount"),
    [
        ("requests", 20, 2.0, "20 requests in 2 s"),
        ("requests", 20, 1.0, "20 requests a second"),
        ("cost_micros", 2_500_000, DAY_S, "2.5 in money a day"),
        ("tokens", 7, 30 * DAY_S, "7 tokens a month"),
        ("tokens", 7, 31 * DAY_S, "7 tokens a month"),
        ("tokens", 7, 0.0, "(7 tokens)"),
        ("concurrency", 5, 0.0, "5 calls at a time"),
    ],
)
def test_a_refusal_says_how_much_is_allowed(
    unit: str, limit: int, window_s: float, amount: str
) -> None:
    state = LimitState("rule", unit, limit, 0, 1.0, window_s)
    assert amount in refusal(state, 1.0).message


def test_a_call_that_no_wait_would_admit_is_told_so() -> None:
    tokens = LimitState("rule", "tokens", 10, 10, 0.0, 60.0, refuses=True)
    error = refusal(tokens, None)
    assert "more than is ever allowed" in error.message
    assert "(10 tokens a minute). Send a shorter prompt" in error.message
    trailers = dict(error_trailers(error, b"{}"))
    assert "retry-after" not in trailers
    assert trailers["x-should-retry"] == "false"
    assert "Make it smaller." in refusal(None, None).message


@pytest.mark.parametrize(("wait_s", "told"), [(1.5, None), (60.0, None), (61.0, "false")])
def test_clients_are_told_not_to_repeat_what_is_refused_for_long(
    wait_s: float, told: str | None
) -> None:
    trailers = dict(error_trailers(refusal(None, wait_s), b"{}"))
    assert trailers.get("x-should-retry") == told
    assert float(trailers["retry-after"]) >= wait_s


def test_an_exhausted_budget_of_money_is_no_rate() -> None:
    state = LimitState("cost_per_month", "cost_micros", 9, 0, 9e5, 30 * DAY_S, refuses=True)
    error = refusal(state, 9e5)
    assert (error.reason, error.metadata["quota"]) == ("BUDGET_EXHAUSTED", "cost_per_month")
    said = json.loads(openai.error_body(error, "r"))["error"]
    assert (said["type"], said["code"]) == ("insufficient_quota", "insufficient_quota")
    assert json.loads(anthropic.error_body(error, "r"))["error"]["type"] == "billing_error"
    assert dict(error_trailers(error, b"{}"))["x-should-retry"] == "false"


@pytest.mark.parametrize("unit", ["cost_micros", "tokens"])
def test_a_rate_is_no_budget(unit: str) -> None:
    error = refusal(LimitState("rule", unit, 9, 0, 60.0, 60.0), 5.0)
    assert error.reason == "RATE_LIMITED"
    assert json.loads(openai.error_body(error, "r"))["error"]["code"] == "rate_limit_exceeded"
    assert json.loads(anthropic.error_body(error, "r"))["error"]["type"] == "rate_limit_error"


def test_a_rule_in_shadow_mode_is_not_what_refused() -> None:
    shadow = LimitState("rule", "tokens", 10, 0, 0.0, 60.0, shadow=True)
    assert "tokens" not in refusal(shadow, 1.0).message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.1 s"),
        (0.31, "0.4 s"),
        (2.0, "2 s"),
        (60.0, "1 min"),
        (61.5, "1 min 2 s"),
        (3600.0, "1 h"),
        (90_061.0, "1 d 1 h 2 min"),
        (86_400.0, "1 d"),
    ],
)
def test_a_wait_is_told_in_words_and_never_too_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_anthropic_surfaces_get_their_headers_with_a_refusal_too() -> None:
    state = LimitState("rule", "tokens", 10, 0, 5.0, 60.0, refuses=True)
    names = dict(error_trailers(refusal(state, 5.0, "messages"), b"{}"))
    assert "anthropic-ratelimit-tokens-reset" in names
    assert "anthropic-ratelimit-tokens-reset" not in dict(error_trailers(refusal(state, 5.0), b""))
