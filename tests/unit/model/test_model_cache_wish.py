"""Which requests the cache may answer."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model.cache.wish import oldest_s
from services.model.call import Call, Dialect

WHO = ("tenant", "apikey", "ann")
CHAT = Dialect.OPENAI_CHAT
RESPONSES = Dialect.OPENAI_RESPONSES


def asked(
    *control: str, dialect: Dialect = CHAT, caller: tuple[str, str, str] = WHO, **body: Any
) -> float | None:
    headers = tuple(("cache-control", value) for value in control)
    content = msgspec.json.encode({"model": "m", **body})
    return oldest_s(Call("r", dialect, "m", content, headers, caller=caller), 600.0)


@pytest.mark.parametrize("zero", [0, 0.0])
def test_temperature_zero_is_deterministic(zero: float) -> None:
    assert asked(temperature=zero) == 600


@pytest.mark.parametrize("other", [0.1, 1, None, "0", False, [0]])
def test_another_temperature_is_not(other: object) -> None:
    assert asked(temperature=other) is None


def test_a_temperature_that_stands_elsewhere_says_nothing() -> None:
    assert asked(messages=[{"temperature": 0}]) is None
    assert asked() is None


@pytest.mark.parametrize(
    ("control", "oldest"),
    [
        ("max-age=60", 60),
        ("Max-Age=60, must-revalidate", 60),
        ('max-age="60"', 60),
        ("max-age=999999999999999999", 600),
        ("max-age=0", 0),
        ("no-cache, max-age=60", 0),
        ("no-store, max-age=60", None),
        ("max-age", None),
        ("max-age=-1", None),
        ("max-age=soon", None),
        ("max-age=²", None),
        ("private", None),
        ("", None),
    ],
)
def test_a_caller_says_how_old_an_answer_may_be(control: str, oldest: float | None) -> None:
    assert asked(control) == oldest


def test_a_caller_may_refuse_what_is_deterministic() -> None:
    assert asked("no-store", temperature=0) is None
    assert asked("no-cache", temperature=0) == 0
    assert asked("max-age=5", temperature=0) == 5
    assert asked("max-age=5", "no-store", temperature=0) is None


@pytest.mark.parametrize("caller", [("", "apikey", "ann"), ("t", "", "ann"), ("t", "apikey", "")])
def test_nobody_in_particular_is_never_answered_from_the_cache(
    caller: tuple[str, str, str],
) -> None:
    assert asked("max-age=60", caller=caller, temperature=0) is None


@pytest.mark.parametrize(
    "field",
    [
        {"store": True},
        {"conversation": "c"},
        {"previous_response_id": "r"},
        {"container": {"id": "c"}},
        {"mcp_servers": [{"url": "https://x"}]},
    ],
)
def test_what_leaves_something_at_the_provider_is_always_asked(field: dict[str, Any]) -> None:
    assert asked("max-age=60", temperature=0, **field) is None


def test_a_response_is_kept_by_the_provider_unless_it_is_told_not_to() -> None:
    assert asked("max-age=60", dialect=RESPONSES, temperature=0) is None
    assert asked(dialect=RESPONSES, temperature=0, store=None) is None
    assert asked(dialect=RESPONSES, temperature=0, store=False) == 600


@pytest.mark.parametrize(
    "field",
    [
        {"web_search_options": {"x": 1}},
        {"tools": [{"type": "web_search_20250305"}]},
        {"tools": [{"type": ["function"]}]},
        {"tools": [{"type": {}}, {"type": "function"}]},
    ],
)
def test_what_looks_into_the_world_needs_its_callers_word(field: dict[str, Any]) -> None:
    assert asked(temperature=0, **field) is None
    assert asked("max-age=60", temperature=0, **field) == 60


def test_tools_of_the_client_are_no_obstacle() -> None:
    tools = [{"type": "function", "function": {}}, {"name": "x", "input_schema": {}}]
    assert asked(temperature=0, tools=tools) == 600


def test_embeddings_are_kept_when_asked_for() -> None:
    assert asked(dialect=Dialect.OPENAI_EMBEDDINGS, input="x") is None
    assert asked("max-age=9", dialect=Dialect.OPENAI_EMBEDDINGS, input="x") == 9


def test_a_count_of_tokens_is_not_kept() -> None:
    assert asked("max-age=9", dialect=Dialect.ANTHROPIC_COUNT_TOKENS) is None


@pytest.mark.parametrize("body", [b"[]", b"", b'{"temperature":0', b'{"temperature":0,"tools":5}'])
def test_what_cannot_be_read_is_left_to_who_says_what_is_wrong_with_it(body: bytes) -> None:
    headers = (("cache-control", "max-age=60"),)
    assert oldest_s(Call("r", CHAT, "m", body, headers, caller=WHO), 600.0) is None


ANY = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("temperature", "store", "tools", "conversation", "web_search_options", "container")


@given(
    body=st.dictionaries(st.sampled_from(FIELDS), ANY),
    control=st.text(max_size=30),
    dialect=st.sampled_from(list(Dialect)),
)
def test_nothing_that_a_caller_can_send_is_a_defect(
    body: dict[str, Any], control: str, dialect: Dialect
) -> None:
    found = asked(control, dialect=dialect, **body)
    assert found is None or 0 <= found <= 600
