"""Personal data goes, everything else stays byte for byte."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText
from services.gateway.stream_redaction import StreamRedactor

SAMPLES = [
    ("mail bob@example.com now", "mail [EMAIL_1] now"),
    ("card 4111 1111 1111 1111.", "card [CARD_1]."),
    ("card 4111111111111112.", "card 4111111111111112."),
    ("ssn 219-09-9999", "ssn 219-09-9999"),
    ("ssn 536-90-4399", "ssn [SSN_1]"),
    ("call +49 30 901820 or +1 (650) 253-0000", "call [PHONE_1] or [PHONE_2]"),
    ("iban DE89 3704 0044 0532 0130 00 ok", "iban [IBAN_1] ok"),
    ("ip 8.8.8.8 and 10.0.0.1", "ip [IP_ADDRESS_1] and 10.0.0.1"),
    ("key sk-abcdefghijklmnopqrstuvwx", "key [API_KEY_1]"),
    ("a@b.co a@b.co c@d.co", "[EMAIL_1] [EMAIL_1] [EMAIL_2]"),
    ("version 1.2.3.4.5, 2026-11-23, x=12345678", "version 1.2.3.4.5, 2026-11-23, x=12345678"),
]


@pytest.mark.parametrize(("text", "redacted"), SAMPLES)
def test_each_type_is_found_and_checked(text: str, redacted: str) -> None:
    assert Redactor().text(text) == redacted


@pytest.mark.parametrize(("text", "redacted"), SAMPLES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_inside_json_the_same_is_found(text: str, redacted: str, *, ascii_only: bool) -> None:
    body = json.dumps({"content": f"\n\t{text} ü"}, ensure_ascii=ascii_only).encode()
    assert msgspec.json.decode(Redactor().json(body)) == {"content": f"\n\t{redacted} ü"}


def test_an_escape_does_not_hide_a_match() -> None:
    body = b'{"content":"bob\\u0040example.com"}'
    assert Redactor().json(body) == b'{"content":"[EMAIL_1]"}'


def test_a_file_in_a_data_uri_is_left_alone() -> None:
    body = b'{"image":"data:image/png;base64,iVBORw0KGgo+4915112345678AA=="}'
    assert Redactor().json(body) is body


@pytest.mark.parametrize(
    "body",
    [
        b'{"content":"data: my mail is bob@example.com"}',
        b'{"content":"data:text/plain;base64,AA== bob@example.com"}',
        b'{"metadata":{"id":"bob@example.com"}}',
        b'{"properties":{"bob@example.com":1}}',
        b'{"type":"bob@example.com","role":"bob@example.com"}',
    ],
)
def test_no_place_in_a_body_is_a_hiding_place(body: bytes) -> None:
    assert b"bob@" not in Redactor().json(body)


def test_many_values_cost_what_they_are() -> None:
    """Each new value is numbered without looking at the others."""
    text = " ".join(f"user{number}@example.com" for number in range(20_000))
    assert Redactor().text(text).endswith("[EMAIL_20000]")


LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(
    st.recursive(
        LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
    )
)
def test_json_stays_json(value: object) -> None:
    body = msgspec.json.encode(value)
    assert type(msgspec.json.decode(Redactor().json(body))) is type(msgspec.json.decode(body))


@pytest.mark.parametrize("indent", [None, 2, 4, 40])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_numbers_become_strings_however_their_json_is_written(
    depth: int, indent: int | None
) -> None:
    """Promise: JSON in a string stays JSON, also over several lines."""
    card = 4111111111111111
    text = json.dumps({"cards": [card, card], "one": card, "more": [[card]]}, indent=indent)
    text = text.replace(": ", " :\n\t")
    for _ in range(depth):
        text = json.dumps({"arguments": f"\n{text}"}, indent=indent)
    redacted = Redactor().json(text.encode()).decode()
    for _ in range(depth):
        redacted = json.loads(redacted)["arguments"]
    number = "[CARD_1]"
    assert json.loads(redacted) == {"cards": [number, number], "one": number, "more": [[number]]}


def test_a_text_that_only_begins_like_json_gets_no_quotes() -> None:
    body = b'{"content":"[note] caf\\u00e9, 4111111111111111, and 4111111111111111, so"}'
    expected = b'{"content":"[note] caf\\u00e9, [CARD_1], and [CARD_1], so"}'
    assert Redactor().json(body) == expected


def test_everything_but_the_match_stays_byte_for_byte() -> None:
    body = b'{ "n" : 1e5,"f":1.0, "s":"\\/ \\u00fc", "content" :  "x a@b.co y" }'
    expected = b'{ "n" : 1e5,"f":1.0, "s":"\\/ \\u00fc", "content" :  "x [EMAIL_1] y" }'
    assert Redactor().json(body) == expected


@pytest.mark.parametrize(("text", "redacted"), SAMPLES)
def test_a_text_split_anywhere_gives_what_the_whole_gives(text: str, redacted: str) -> None:
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            running = RunningText(Redactor())
            parts = (text[:first], text[first:second], text[second:])
            assert "".join(map(running.feed, parts)) + running.finish() == redacted


@given(st.lists(st.sampled_from([sample for sample, _ in SAMPLES]), max_size=4), st.data())
def test_longer_texts_split_at_random_give_what_the_whole_gives(
    texts: list[str], data: st.DataObject
) -> None:
    text = " then ".join(texts)
    running = RunningText(Redactor())
    out = ""
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out, rest = out + running.feed(rest[:size]), rest[size:]
    assert out + running.finish() == Redactor().text(text)


@pytest.mark.parametrize("size", [1, 7, 100, 600])
@pytest.mark.parametrize(
    "secret",
    [
        # pragma: allowlist nextline secret
        "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow" * 400 + "\n-----END RSA PRIVATE KEY-----",
        "eyJhbGciOiJSUzI1NiJ9." + "eyJzdWIi" * 150 + "." + "c2lnbmF0dXJl" * 30,
    ],
    ids=["key", "token"],
)
def test_a_long_secret_is_held_until_it_is_whole(secret: str, size: int) -> None:
    text = f"here: {secret} and on"
    running = RunningText(Redactor())
    out = "".join(running.feed(text[i : i + size]) for i in range(0, len(text), size))
    out += running.finish()
    assert out == Redactor().text(text)
    assert "MIIE" not in out
    assert "eyJ" not in out


ARGUMENTS = [
    {"n": 4111111111111111},
    {"list": [4111111111111111, -378282246310005, "x,4111111111111111 y"]},
    {"text": "over\n4111 1111 1111 1111\nand\npassport: C01X00T47\n"},
    {"text": "\u4f60\u597d0049 30 901820, caf\u00e9\u00a0passport: C01X00T47"},
    {"inner": '{"n": "a, 4111111111111111, b"}'},
]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("value", ARGUMENTS)
def test_arguments_in_pieces_say_what_the_whole_says(value: object, size: int) -> None:
    """Promise: JSON stays JSON, and no escape beside a value hides it."""
    text = json.dumps(value)
    running = RunningText(Redactor(), arguments=True)
    out = "".join(running.feed(text[at : at + size]) for at in range(0, len(text), size))
    out += running.finish()
    assert out == Redactor().json(text.encode()).decode()
    assert json.loads(out) != value


def test_a_text_without_end_is_not_held_without_bound() -> None:
    running = RunningText(Redactor())
    released = sum(len(running.feed("x" * 100)) for _ in range(100))
    assert released > 9000


@pytest.mark.parametrize(
    "begin",
    # pragma: allowlist nextline secret
    ["-----BEGIN PRIVATE KEY-----\n", "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0."],
)
def test_a_secret_without_end_is_not_held_without_bound(begin: str) -> None:
    running = RunningText(Redactor())
    pieces = [running.feed(begin)] + [running.feed("A" * 4096) for _ in range(24)]
    assert "".join(pieces).startswith(("[PRIVATE_KEY_1]", "[TOKEN_1]"))
    assert not any(pieces[:16])


def event(content: str, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": {"content": content}, "finish_reason": finish}
    chunk = {"id": "c", "created": 1, "model": "m", "odd": 1.0, "choices": [choice]}
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def texts(events: bytes) -> dict[int, str]:
    found: dict[int, str] = {}
    for line in events.splitlines():
        if line.startswith(b"data: {"):
            for choice in msgspec.json.decode(line[6:])["choices"]:
                content = choice["delta"].get("content") or ""
                found[choice["index"]] = found.get(choice["index"], "") + content
    return found


def test_a_stream_with_nothing_to_hide_keeps_its_text() -> None:
    stream = StreamRedactor(Redactor())
    parts = ["Hel", "lo", " wor", "ld", "!"]
    out = b"".join(stream.events(event(part)) for part in parts)
    out += stream.events(event("", "stop"))
    assert texts(out) == {0: "Hello world!"}


def test_a_match_across_events_is_redacted() -> None:
    stream = StreamRedactor(Redactor())
    out = b"".join(stream.events(event(part)) for part in ("mail bo", "b@exa", "mple.com", " ok"))
    out += stream.events(event("", "stop"))
    assert texts(out) == {0: "mail [EMAIL_1] ok"}
    assert b"bo" not in out
    assert out.index(b'"odd":1.0') > 0


def test_a_match_across_events_is_redacted_where_each_has_an_empty_finish_reason() -> None:
    stream = StreamRedactor(Redactor())
    out = b"".join(stream.events(event(part, "")) for part in ("mail bob@exam", "ple.com"))
    out += stream.events(event(" now", "stop"))
    assert texts(out) == {0: "mail [EMAIL_1] now"}


def test_choices_are_kept_apart() -> None:
    stream = StreamRedactor(Redactor())
    out = b"".join(
        stream.events(event(part, index=index))
        for part, index in (("a@b", 0), ("hello ", 1), (".co", 0), ("you", 1))
    )
    out += stream.events(event("", "stop", 0)) + stream.events(event("", "stop", 1))
    assert texts(out) == {0: "[EMAIL_1]", 1: "hello you"}


def test_what_is_held_comes_before_the_event_that_ends_the_choice() -> None:
    stream = StreamRedactor(Redactor())
    out = stream.events(event("last")) + stream.events(
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    )
    assert texts(out) == {0: "last"}
    assert out.index(b"last") < out.index(b'"stop"')
    assert stream.events(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


def test_the_arguments_of_parallel_tool_calls_are_kept_apart() -> None:
    def call(index: int, arguments: str) -> bytes:
        tool = {"index": index, "function": {"arguments": arguments}}
        choice = {"index": 0, "delta": {"tool_calls": [tool]}}
        return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"

    stream = StreamRedactor(Redactor())
    out = b"".join(
        stream.events(call(index, part))
        for index, part in ((0, '{"to":"a@'), (1, '{"x":'), (0, 'b.co"}'), (1, "1}"))
    )
    out += stream.events(
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    )
    arguments: dict[int, str] = {}
    for line in out.splitlines():
        if line.startswith(b"data: {"):
            for choice in msgspec.json.decode(line[6:])["choices"]:
                for tool in choice["delta"].get("tool_calls", []):
                    index = tool["index"]
                    arguments[index] = arguments.get(index, "") + tool["function"]["arguments"]
    assert arguments == {0: '{"to":"[EMAIL_1]"}', 1: '{"x":1}'}


def test_events_that_are_not_json_are_searched_as_they_are() -> None:
    out = StreamRedactor(Redactor()).events(b'data: {"broken a@b.co\n\n: comment\n\n')
    assert out.endswith(b": comment\n\n")


@pytest.mark.parametrize(
    "frame",
    [
        b"event: x\n%s\n\n",
        b"id: 5\n%s\n\n",
        b": hi\n%s\n\n",
        b"%s\r\n\r\n",
        b"%s\r\r",
        b"%s\nretry: 5\n\n",
    ],
)
def test_events_in_every_legal_form_are_searched(frame: bytes) -> None:
    line = b'data: {"choices":[{"index":0,"delta":{"content":"a@b.co "},"finish_reason":"stop"}]}'
    out = StreamRedactor(Redactor()).events(frame.replace(b"%s", line))
    assert b"a@b" not in out
    assert b"[EMAIL_1]" in out


def test_data_over_several_lines_is_one_event() -> None:
    event = b'data: {"choices":[{"index":0,"delta":\ndata: {"content":"a@b.co x"}}]}\n\n'
    out = StreamRedactor(Redactor()).events(event)
    assert b"a@b" not in out
    assert out.count(b"\n\n") == 1


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[],"note":"a@b.co"}',
        b'{"choices":[{"index":0,"delta":{"audio":{"transcript":"a@b.co"}}}]}',
        b'{"choices":[{"index":0,"delta":{"name":"a@b.co"}}]}',
    ],
)
def test_texts_elsewhere_in_an_event_are_searched(data: bytes) -> None:
    assert b"a@b" not in StreamRedactor(Redactor()).events(b"data: " + data + b"\n\n")


def test_log_probabilities_do_not_spell_what_was_changed() -> None:
    tokens = {"content": [{"token": "a@b", "logprob": -0.1}, {"token": ".co", "logprob": -0.1}]}
    choice = {"index": 0, "delta": {"content": "a@b.co"}, "logprobs": tokens}
    event = b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"
    out = StreamRedactor(Redactor()).events(event)
    assert b"a@b" not in out
    assert b'"logprobs":null' in out
