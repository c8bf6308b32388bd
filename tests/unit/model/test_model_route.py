"""Routes and headers: what is declared, and what may pass."""

import pytest

from services.common.errors import NotFound, Unimplemented
from services.model.call import Dialect
from services.model.headers import TO_OPENAI, from_provider, to_provider
from services.model.providers.stub import Stub
from services.model.route import Route, Routes, Target
from services.model.usage import Prices
from tests.fakes.instant import LoopClock

STUB = Stub(LoopClock())


def _route(name: str, *prices: Prices) -> Route:
    return Route(name, tuple(Target(STUB, name, price) for price in prices or (Prices(),)))


def test_routes_are_sorted_by_name() -> None:
    assert [route.name for route in Routes([_route("b"), _route("a")])] == ["a", "b"]


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(NotFound, match="'other' does not exist") as caught:
        Routes([_route("a")]).find("other")
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_a_dialect_that_no_target_speaks_is_refused() -> None:
    with pytest.raises(Unimplemented, match="'a' cannot be reached through Anthropic messages"):
        _route("a").targets_for(Dialect.ANTHROPIC_MESSAGES)
    assert _route("a").dialects == STUB.dialects


def test_the_dearest_price_bounds_every_target() -> None:
    assert _route("a", Prices(1, 9), Prices(5, 2)).dearest == Prices(5, 9)


def test_credentials_and_unknown_headers_do_not_reach_the_provider() -> None:
    sent = (
        ("authorization", "Bearer client"),
        ("cookie", "a=b"),
        ("x-api-key", "client"),
        ("openai-organization", "org"),
        ("idempotency-key", "one\r\nauthorization: two"),
        ("openai-project", "é"),
        ("openai-beta", ""),
    )

    assert to_provider(sent, TO_OPENAI) == (("openai-organization", "org"),)


def test_cookies_and_account_names_do_not_reach_the_client() -> None:
    received = (
        ("set-cookie", "a=b"),
        ("openai-organization", "ours"),
        ("x-ratelimit-limit-requests", "5"),
        ("x-request-id", "req_1"),
        ("openai-processing-ms", "7"),
    )

    assert from_provider(received) == (
        ("x-upstream-request-id", "req_1"),
        ("openai-processing-ms", "7"),
    )
