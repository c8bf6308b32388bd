"""Tokens and cost."""

import json

import pytest

from services.model.call import Facts, Usage
from services.model.usage import MOST_MICROS, Prices, counted, prompt_bytes


def test_cost_is_whole_micros_rounded_up() -> None:
    prices = Prices(input_micros=2_500_000, output_micros=10_000_000)

    assert prices.cost_micros(Usage(1000, 500)) == 2500 + 5000
    assert Prices(1, 0).cost_micros(Usage(1, 0)) == 1
    assert Prices().cost_micros(Usage(10**9, 10**9)) == 0


def test_cost_never_exceeds_what_a_record_can_hold() -> None:
    assert Prices(10**12, 10**12).cost_micros(Usage(2**40, 2**40)) == MOST_MICROS < 2**53


def test_version_names_the_figures() -> None:
    assert Prices(1, 2).version == Prices(1, 2).version
    assert Prices(1, 2).version != Prices(2, 1).version


def test_the_providers_count_is_taken_as_it_is() -> None:
    usage = Usage(3, 4)

    assert counted(Facts(usage=usage), b"not even json") is usage


def test_an_estimate_takes_four_bytes_for_a_token_and_says_so() -> None:
    body = json.dumps({"model": "m" * 100, "messages": [{"content": "x" * 40}]}).encode()

    assert counted(Facts(answer_bytes=9), body) == Usage(10, 3, estimated=True)


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"input": ["ab", "cd"], "dimensions": 3}, 4),
        ({"prompt": "é"}, 2),
        ({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}]}, 4000),
        ({"messages": [{"content": [{"source": {"type": "base64", "data": "A" * 99}}]}]}, 4000),
        ({"system": None, "messages": 3}, 0),
    ],
)
def test_prompt_bytes_counts_text_and_bounds_files(body: object, size: int) -> None:
    assert prompt_bytes(json.dumps(body).encode()) == size


@pytest.mark.parametrize("body", [b"{", b"[1]", b"[" * 100_000])
def test_prompt_bytes_takes_the_length_of_what_it_cannot_read(body: bytes) -> None:
    assert prompt_bytes(body) == len(body)


def test_cached_tokens_have_prices_of_their_own() -> None:
    prices = Prices(10_000_000, 0, cached_input_micros=1_000_000, cache_write_micros=12_500_000)

    assert prices.cost_micros(Usage(100, 0)) == 1000
    assert prices.cost_micros(Usage(100, 0, cached_input_tokens=60)) == 400 + 60
    assert prices.cost_micros(Usage(100, 0, 60, 40)) == 60 + 500
    assert prices.cost_micros(Usage(100, 0, cached_input_tokens=10**9)) == 100
    assert Prices(10_000_000, 0).cost_micros(Usage(100, 0, 60, 40)) == 1000


def test_operators_may_name_a_version_of_their_prices() -> None:
    assert Prices(1, 2, name="2026-11").version == "2026-11"
