"""Numbers become strings in JSON of any depth, and wherever a stream cuts it."""

import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.effort import Effort, TooMuchToCheck
from services.gateway.json_outline import Outline
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText

CARD = 4111111111111111
NESTED: list[Any] = [
    {"list": [CARD, 1]},
    {"inner": json.dumps({"cards": [CARD, -CARD], "n": CARD})},
    {"inner": json.dumps([[CARD], {"a": CARD}], indent=2)},
    {"inner": json.dumps({"deep": json.dumps({"n": CARD, "l": [1, CARD]})})},
    {"inner": json.dumps({"deep": json.dumps([json.dumps([CARD, "x"])])})},
    [json.dumps([CARD]), json.dumps({"n": CARD}), CARD],
    {"caf\u00e9 \U0001f600": json.dumps({"\u4f60": [CARD], "e": "\n"}, ensure_ascii=False)},
]
PROSE = [
    f'they wrote "n": {CARD}, and so on',
    f"[note] caf\u00e9, {CARD}, and {CARD}, so",
    f"in a list [{CARD}, 2]",
    f"[{CARD} is mine]",
    f'{{"text": "see [{CARD}, 2] and (1, {CARD}) there"}}',
    f"[1, 2, {CARD}",
    f": {CARD}, they said",
    f'{{"a": ": {CARD}, b", "c": "{{\\"d\\": \\": {CARD}, e"}}',
    f"[1 2, {CARD}]",
    f'{{"a" {CARD}, "b": {CARD}}}',
    f"[tru, {CARD}]",
    f'{{"a": "{CARD}", "b": [{CARD}.0, {CARD}]}}',
]


def said(pieces: list[str], *, arguments: bool) -> str:
    running = RunningText(Redactor(), arguments=arguments)
    return "".join(map(running.feed, pieces)) + running.finish()


def unfolded(value: Any) -> Any:
    """Return JSON with the JSON in its strings read too."""
    if isinstance(value, list):
        return [unfolded(item) for item in value]
    if isinstance(value, dict):
        return {name: unfolded(item) for name, item in value.items()}
    if isinstance(value, str) and value[:1] in {"[", "{"} and not value.startswith("[CARD"):
        return unfolded(json.loads(value))
    return value


def hidden(value: Any) -> Any:
    text = json.dumps(unfolded(value))
    return json.loads(text.replace(f"-{CARD}", '"[CARD_1]"').replace(str(CARD), '"[CARD_1]"'))


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("value", NESTED)
def test_json_in_strings_of_a_stream_stays_json_for_every_cut(
    value: Any, *, ascii_only: bool
) -> None:
    """Promise: typed values stay valid JSON, and a stream says what the whole says."""
    text = json.dumps(value, ensure_ascii=ascii_only)
    whole = Redactor().json(text.encode()).decode()
    assert unfolded(json.loads(whole)) == hidden(value)
    for cut in range(len(text) + 1):
        assert said([text[:cut], text[cut:]], arguments=True) == whole
    for size in range(1, 9):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert said(pieces, arguments=True) == whole


@pytest.mark.parametrize("text", [*PROSE, *(json.dumps(value) for value in NESTED)])
def test_a_text_in_pieces_gets_the_quotes_that_the_whole_gets(text: str) -> None:
    """Promise: also structured answers, which are JSON in the text of a message."""
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    whole = json.loads(Redactor().json(body))["choices"][0]["message"]["content"]
    for first in range(len(text) + 1):
        assert said([text[:first], text[first:]], arguments=False) == whole
    assert said(list(text), arguments=False) == whole


JSON = st.recursive(
    st.sampled_from([CARD, -CARD, 1, 1.5, None, True, "x", f"a {CARD}, b", "\n[", "\u00e9"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["n", "a b", "\u00fc"]), inner, max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=8,
)


@settings(max_examples=300, derandomize=True)
@given(
    st.dictionaries(st.text(alphabet='ab"\\', max_size=2), JSON, max_size=3),
    st.sampled_from([None, 1]),
    st.data(),
)
def test_any_arguments_in_pieces_say_what_the_whole_says(
    value: Any, indent: int | None, data: st.DataObject
) -> None:
    text = json.dumps(value, indent=indent)
    whole = Redactor().json(text.encode()).decode()
    json.loads(whole)
    places = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    cuts = itertools.pairwise([0, *places, len(text)])
    assert said([text[a:b] for a, b in cuts], arguments=True) == whole


@pytest.mark.parametrize(
    ("text", "quotes"),
    [
        ("[", b'"'),
        ("[1, ", b'"'),
        ('{"a": ', b'"'),
        ('{"a": [true, {"b": null}, ', b'"'),
        ('{"a": "[1,', b'\\"'),
        ('{"a": "{\\"b\\": \\"[', b'\\\\\\"'),
        ("", None),
        ("{", None),
        ("{1:", None),
        ("[1", None),
        ("[,", None),
        ("[1,]", None),
        ('{"a":1,}', None),
        ("[01,", None),
        ("[nul,", None),
        ("[1}", None),
        ('["x', None),
        ('{"[', None),
    ],
)
def test_where_a_value_may_stand_follows_from_what_stands_before(
    text: str, quotes: bytes | None
) -> None:
    outline = Outline()
    outline.follow(text.encode())
    assert outline.quotes() == quotes


def test_a_number_in_the_data_of_an_event_becomes_a_string() -> None:
    for event in (
        f'data: {{"type":"x","cards":[{CARD}]}}\n\n',
        f'event: x\r\ndata: {{"type":"x",\r\ndata: "cards":[{CARD}]}}\r\n\r\n',
    ):
        assert b'["[CARD_1]"]' in Redactor().json(event.encode())


@pytest.mark.parametrize("unit", ["[", "[],", "{},", '"\\\\",', '{"a":[', "1,", '"[1,",', "[1],"])
def test_following_json_is_linear_and_paid_for(unit: str) -> None:
    def seconds(size: int) -> float:
        text = ("[" + unit * (size // len(unit))).encode()
        started = time.process_time()
        Outline().follow(text)
        return time.process_time() - started

    seconds(4_000)
    small = min(seconds(8_000) for _ in range(3))
    assert min(seconds(64_000) for _ in range(2)) < small * 8 * 6 + 0.05


def test_brackets_without_end_are_too_much_to_follow() -> None:
    with pytest.raises(TooMuchToCheck):
        Outline(Effort(100)).follow(b"[" + b"[]," * 10_000)
