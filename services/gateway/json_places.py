"""Where in JSON a byte stands: in which member, in a text or outside of any."""

import re
from bisect import bisect_right
from typing import Final

import msgspec

from services.gateway.personal_data import suspicious

_TOKEN: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\],]', re.DOTALL)
# The last may have no end yet, in a piece of a stream.
_LITERAL: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*:")
_LONGEST_NAME: Final = 64


def place(body: bytes, position: int) -> str:
    """Return the path of what stands at a position, such as `messages[0].content`."""
    path: list[str | int] = []
    for token in _TOKEN.finditer(body, 0, len(body)):
        if token.start() > position:
            break
        character = body[token.start()]
        if character == ord("{"):
            path.append("")
        elif character == ord("["):
            path.append(0)
        elif character in b"}]":
            if path:
                path.pop()
        elif character == ord(","):
            if path and isinstance(path[-1], int):
                path[-1] += 1
        elif path and isinstance(path[-1], str) and _COLON.match(body, token.end()):
            path[-1] = _name(token.group())
    text = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in path if step != ""
    )
    return text.removeprefix(".") or "body"


def _name(literal: bytes) -> str:
    try:
        name: str = msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "?"
    # A name can be personal data itself, and a path is shown.
    shown = len(name) <= _LONGEST_NAME and name.isprintable() and not suspicious(literal)
    return name if shown else "?"


class Literals:
    """The strings of some JSON.

    Args:
        body: JSON.
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self, body: bytes) -> None:
        """See the class."""
        spans = [match.span() for match in _LITERAL.finditer(body)]
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]

    def around(self, position: int) -> tuple[int, int] | None:
        """Return the string that a position is in, with its quotes; None when it is in none.

        The last string of a piece may lack the quote at its end.
        """
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= self._ends[index]:
            return None
        return self._starts[index], self._ends[index]
