"""Numbers that are values of JSON: in which quotes a text would take their place."""

import re
from collections.abc import Callable
from typing import Final

from services.gateway.json_outline import Standing

# In JSON that stands in a string, white space is escaped.
_SPACE: Final = rb"(?:[ \t\r\n]|\\++[nrt])*+"
_BEHIND: Final = re.compile(rb"(?:[\[,:]|\\++u00(?:5[bB]|2[cC]|3[aA]))%b$" % _SPACE)
_MEMBER: Final = re.compile(rb'(\\*")%b:%b$' % (_SPACE, _SPACE))
_NUMBER_END: Final = re.compile(rb"(?:\.0+)?(?=%b[,\]}])" % _SPACE)
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data:")
REACH: Final = 256
"""So many bytes before a number say whether it is a value."""


def number_in_json(
    text: bytes, start: int, end: int, value: bytes, quotes: Callable[[int], Standing]
) -> tuple[int, int, bytes] | None:
    """Return where a number is that is a value of JSON, and the quotes that fit; else None."""
    if not value.isdigit() or not text[start : start + 1].isdigit():
        return None
    after = _NUMBER_END.match(text, end)
    first = start - 1 if text[start - 1 : start] == b"-" else start
    least = max(0, first - REACH)
    if after is None or _BEHIND.search(text, least, first) is None:
        return None
    quote, escapes = quotes(first)
    if quote is None:
        # In a text that only quotes JSON, what the name stands in; not the quote before the text.
        member = _MEMBER.search(text, least, first)
        if member is not None and len(member[1]) > escapes:
            quote = member[1]
    return None if quote is None else (first, after.end(), quote)


def nowhere(_: int) -> Standing:
    """Say that no value stands there."""
    return None, 0


def begin_of_json(body: bytes) -> int:
    """Return where JSON begins: behind `data:` in an event of a stream."""
    if body.lstrip()[:1] in {b"{", b"[", b'"'}:
        return 0
    data = _DATA.search(body)
    return 0 if data is None else data.end()
