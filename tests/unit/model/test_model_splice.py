"""Edits of JSON in place."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model import splice

Dumps = Callable[[object], str]

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "stream_options", '"', "{"]), _JSON)
_DUMPS = st.sampled_from(
    [
        json.dumps,
        lambda value: json.dumps(value, indent=2, ensure_ascii=False),
        lambda value: json.dumps(value, separators=(",", ":")) + " \n",
    ]
)


@given(_OBJECTS, _DUMPS, _JSON)
def test_replace_field_changes_that_field_alone(
    value: dict[str, Any], dumps: Dumps, new: object
) -> None:
    text = dumps(value).encode()

    edited = splice.replace_field(text, b"a", json.dumps(new).encode())

    assert json.loads(edited) == {**value, "a": new}
    if "a" in value:
        assert list(json.loads(edited)) == list(value)


@given(_OBJECTS, _DUMPS)
def test_field_returns_the_bytes_of_a_value(value: dict[str, Any], dumps: Dumps) -> None:
    found = splice.field(dumps(value).encode(), b"stream_options")

    assert (found is None) == ("stream_options" not in value)
    if found is not None:
        assert json.loads(found) == value["stream_options"]


@given(_OBJECTS, _DUMPS)
def test_append_field_keeps_every_byte_before_it(value: dict[str, Any], dumps: Dumps) -> None:
    text = dumps(value).encode()

    edited = splice.append_field(text, b"new", b"1e5")

    assert edited.startswith(text[: text.rindex(b"}")])
    assert json.loads(edited) == {**value, "new": 1e5}


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        (b'{"model" : "a" ,"x":1.0}', b'{"model" : "b" ,"x":1.0}'),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b"}'),
        (b'{"model":"a","model":["a"]}', b'{"model":"a","model":"b"}'),
        (b'{"model":1e5}', b'{"model":"b"}'),
        (b'{"x":"model","y":["model",":"]}', b'{"x":"model","y":["model",":"],"model":"b"}'),
        (b"{}", b'{"model":"b"}'),
        (b'{"mod\\u0065l":"a"}', b'{"mod\\u0065l":"a","model":"b"}'),
    ],
)
def test_replace_field_leaves_every_other_byte(text: bytes, edited: bytes) -> None:
    assert splice.replace_field(text, b"model", b'"b"') == edited
