"""Which target is tried first, and what a pattern of names stands for."""

from collections import Counter
from itertools import count
from random import Random

import pytest

from services.common.errors import NotFound
from services.model.call import Dialect
from services.model.route import Route, Routes, Target
from services.model.usage import Prices
from tests.fakes.providers import FakeProvider

CHAT = Dialect.OPENAI_CHAT


def target(name: str, weight: int = 0, model: str = "m") -> Target:
    return Target(FakeProvider(name=name), model, weight=weight)


def orders(*targets: Target, times: int = 2000) -> Counter[str]:
    draw = Random(7).random  # noqa: S311 - no secret
    route = Route("m", targets)
    return Counter(
        "".join(one.provider.name for one in route.order(CHAT, 0, draw)) for _ in range(times)
    )


def test_without_weights_the_order_is_the_files() -> None:
    assert orders(target("a"), target("b"), target("c")) == {"abc": 2000}


def test_neighbours_share_the_calls_by_their_weights() -> None:
    found = orders(target("a", 3), target("b", 1), target("c"))

    assert set(found) == {"abc", "bac"}
    assert found["abc"] / 2000 == pytest.approx(0.75, abs=0.03)


def test_weights_count_among_neighbours_alone() -> None:
    found = orders(target("a"), target("b", 1), target("c", 1), target("d"), target("e", 9))

    assert set(found) == {"abcde", "acbde"}


def test_all_weights_are_drawn_anew_for_each_place() -> None:
    assert set(orders(target("a", 1), target("b", 1), target("c", 1))) == {
        "abc",
        "acb",
        "bac",
        "bca",
        "cab",
        "cba",
    }


def test_a_target_that_is_full_or_rests_comes_last() -> None:
    full, resting, well = target("f"), target("r"), target("w")
    full.gate.in_flight = 1000
    for _ in range(100):
        full.gate._queue.append(None)  # type: ignore[arg-type]
    for _ in range(10):
        resting.breaker.failed(0)

    order = Route("m", (full, resting, well)).order(CHAT, 1, lambda: next(map(float, count())))

    assert [one.provider.name for one in order] == ["w", "f", "r"]


def test_an_exact_name_wins_over_patterns_and_the_longest_pattern_over_others() -> None:
    routes = Routes(
        [Route(name, (target(name),)) for name in ("gpt-*", "gpt-4*", "*", "gpt-4o", "*-mini")]
    )

    found = {
        name: routes.find(name).name
        for name in ("gpt-4o", "gpt-4.1", "gpt-3", "o1", "o3-mini", "gpt-4o*")
    }
    assert found == {
        "gpt-4o": "gpt-4o",
        "gpt-4.1": "gpt-4*",
        "gpt-3": "gpt-*",
        "o1": "*",
        "o3-mini": "*-mini",
        "gpt-4o*": "gpt-4*",
    }
    assert next(iter(routes)).name == "gpt-4o"
    with pytest.raises(NotFound):
        Routes([Route("a.c*", (target("a"),))]).find("abc1")
    with pytest.raises(NotFound):
        Routes([Route("gpt-*", (target("a"),))]).find("gpt-")


def test_a_star_in_a_targets_name_stands_for_what_the_pattern_matched() -> None:
    one = target("a", model="models/*:latest")
    route = Route("local/*", (one,))

    assert route.name_at(one, "local/llama") == "models/llama:latest"
    assert Route("plain", (one,)).name_at(one, "plain") == "models/plain:latest"
    assert route.name_at(target("a", model="fixed"), "local/llama") == "fixed"


def test_the_dearest_price_keeps_the_names_of_the_versions() -> None:
    def priced(prices: Prices) -> Target:
        return Target(FakeProvider(), "m", prices)

    one = Prices(1, 9, cache_write_micros=7, name="v1")
    route = Route("m", (priced(one), priced(Prices(5, 2, name="v2"))))

    assert route.dearest == Prices(5, 9, cache_write_micros=7, name="v1+v2")
    assert Route("m", (priced(one), priced(one))).dearest is one
