"""The parser of server-sent events."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model.sse import Parser, SSEError

_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
_WORDS = st.text(
    st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=12
).map(str.encode)


@st.composite
def _events(draw: st.DrawFn) -> tuple[bytes, list[list[bytes]]]:
    """Return a stream with one kind of line end, and the data lines of each event."""
    end = draw(_ENDS)
    raw = b""
    expected = []
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(_WORDS, max_size=3))
        comment = draw(st.booleans())
        if not lines and not comment:
            continue
        raw += b": ping" + end if comment else b""
        raw += b"".join(b"data: " + line + end for line in lines) + end
        expected.append(lines)
    return raw, expected


@given(_events(), st.lists(st.integers(0, 200), max_size=8))
def test_parser_finds_the_same_events_however_the_bytes_are_cut(
    stream: tuple[bytes, list[list[bytes]]], cuts: list[int]
) -> None:
    raw, expected = stream
    parser = Parser()
    found = []
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    for start, end in pairwise(edges):
        found += parser.feed(raw[start:end])
    assert not parser.finish()

    assert b"".join(event.raw for event in found).rstrip(b"\r\n") == raw.rstrip(b"\r\n")
    data = [event.data for event in found if event.data is not None]
    assert data == [b"\n".join(lines) for lines in expected if lines]


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_parser_loses_no_byte_of_anything(pieces: list[bytes]) -> None:
    parser = Parser()
    found = [event.raw for piece in pieces for event in parser.feed(piece)]

    assert b"".join(pieces).startswith(b"".join(found))
    assert b"".join(found) + parser._rest == b"".join(pieces)


def test_parser_reads_the_usual_event() -> None:
    (event,) = Parser().feed(b'data: {"a":1}\n\n')

    assert event == (b'data: {"a":1}\n\n', b'{"a":1}')


def test_parser_joins_data_lines_and_ignores_other_fields() -> None:
    (event,) = Parser().feed(b"\xef\xbb\xbfevent: x\r\ndata:1\r\ndata\r\ndata: 2\r\nid: 7\r\n\r\n")

    assert event.data == b"1\n\n2"


def test_parser_tells_a_comment_from_an_event() -> None:
    first, second = Parser().feed(b": keep-alive\n\ndata: x\n\n")

    assert (first.data, second.data) == (None, b"x")


def test_parser_refuses_an_event_that_does_not_end() -> None:
    parser = Parser(max_event_bytes=100)
    parser.feed(b"data: " + b"x" * 90)

    with pytest.raises(SSEError, match="more than 100 bytes"):
        parser.feed(b"x" * 10)


def test_parser_refuses_an_event_that_is_whole_but_too_long() -> None:
    with pytest.raises(SSEError, match="more than 10 bytes"):
        Parser(max_event_bytes=10).feed(b"data: 12345\n\n")


def test_parser_refuses_an_end_in_the_middle_of_an_event() -> None:
    parser = Parser()
    parser.feed(b"data: x\n\ndata: y\n")

    with pytest.raises(SSEError, match="middle"):
        parser.finish()


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data:[DONE]\n", b"data: [DONE]\r\n"])
def test_the_last_event_of_openai_may_lack_its_empty_line(end: bytes) -> None:
    parser = Parser()
    parser.feed(b"data: x\n\n" + end)
    (event,) = parser.finish()
    assert event.data == b"[DONE]"
    assert event.raw.endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("end", [b"data: [DONE", b"x: [DONE]", b"data: [DONE]\ndata: x"])
def test_nothing_else_may(end: bytes) -> None:
    parser = Parser()
    parser.feed(end)
    with pytest.raises(SSEError, match="middle"):
        parser.finish()
