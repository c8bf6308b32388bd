"""When JSON that comes in pieces is complete."""

import re
from typing import Final

_STRUCTURE: Final = re.compile(r'["{}\[\]]')
_STRING_END: Final = re.compile(r'(?:[^"\\]++|\\.)*+"', re.DOTALL)


class Closing:
    """Notices when JSON that comes in pieces is complete: its outermost bracket is closed."""

    __slots__ = ("_depth", "_string")

    def __init__(self) -> None:
        """Begin before the JSON."""
        self._depth = 0
        self._string: str | None = None

    def feed(self, piece: str) -> bool:
        """Take the next piece; say whether the JSON is complete at its end."""
        at = 0
        if self._string is not None:
            # What came of a string so far stays at hand only while an escape could be cut.
            piece = self._string + piece
            self._string = None
            at = self._end_of_string(piece, 0)
        closed = False
        while (token := _STRUCTURE.search(piece, at)) is not None:
            at = token.end()
            character = token.group()
            if character == '"':
                at = self._end_of_string(piece, at)
            else:
                self._depth += 1 if character in "{[" else -1
                closed = self._depth == 0
        return closed and self._string is None

    def _end_of_string(self, piece: str, start: int) -> int:
        found = _STRING_END.match(piece, start)
        if found is not None:
            return found.end()
        slashes = len(piece) - len(piece.rstrip("\\")) if len(piece) > start else 0
        self._string = "\\" * (min(slashes, len(piece) - start) % 2)
        return len(piece)
