"""Personal data taken out of JSON, with everything else left byte for byte.

The unit of work is one string value: it is decoded, redacted, encoded again and spliced into its
place. Keys, numbers, white space and order stay as they came, and a body with nothing to redact is
returned as the object that was given. The same value gets the same placeholder within one request.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from services.gateway.personal_data import LONGEST_MATCH, find, suspicious

# Possessive, so that no input makes it go back.
_LITERAL: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_COLON: Final = re.compile(rb"[ \t\r\n]*:")
# The members whose string values name things instead of saying something.
_NAMES: Final = frozenset(
    (b'"model"', b'"role"', b'"type"', b'"id"', b'"object"', b'"tool_call_id"', b'"finish_reason"')
)
# What a match can begin with and not yet be complete: an IBAN or digits in groups, the last word.
_UNFINISHED: Final = re.compile(r"(?:\b[A-Z]{2}[0-9]{2}[A-Z0-9 ]*|\+?[0-9][0-9 ().-]*|[^\s]+)$")


class Redactor:
    """Redacts the texts of one request and counts what it took out."""

    __slots__ = ("_placeholders", "counts")

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._placeholders: dict[tuple[str, str], str] = {}
        self.counts: dict[str, int] = {}

    def text(self, text: str) -> str:
        """Return a text with its personal data replaced, such as by `[EMAIL_1]`."""
        pieces: list[str] = []
        done = 0
        for found in find(text):
            value = text[found.start : found.end]
            pieces += text[done : found.start], self._placeholder(found.type, value)
            done = found.end
            self.counts[found.type] = self.counts.get(found.type, 0) + 1
        return "".join([*pieces, text[done:]]) if pieces else text

    def json(self, body: bytes) -> bytes:
        """Return JSON with its string values redacted; the same object when nothing was found."""
        if not suspicious(body):
            return body
        pieces: list[bytes] = []
        done = 0
        for start, end in _values(body):
            literal = body[start:end]
            if not suspicious(literal) or literal.startswith(b'"data:'):
                continue
            text = msgspec.json.decode(literal, type=str)
            redacted = self.text(text)
            if redacted is not text:
                pieces += body[done:start], msgspec.json.encode(redacted)
                done = end
        return b"".join([*pieces, body[done:]]) if pieces else body

    def _placeholder(self, kind: str, value: str) -> str:
        known = self._placeholders.get((kind, value))
        if known is None:
            number = sum(1 for seen, _ in self._placeholders if seen == kind) + 1
            known = self._placeholders[(kind, value)] = f"[{kind}_{number}]"
        return known


class RunningText:
    """One text of a stream, redacted across the borders of its chunks.

    What could be the beginning of a match is held back until it is decided, and no more than
    `LONGEST_MATCH` characters of it.

    Args:
        redactor: the request's.
    """

    __slots__ = ("_held", "_redactor")

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be released."""
        text = self._held + piece
        unfinished = _UNFINISHED.search(text, max(0, len(text) - LONGEST_MATCH))
        cut = len(text) if unfinished is None else unfinished.start()
        cut = _outside_matches(text, cut)
        self._held = text[cut:]
        return self._redactor.text(text[:cut])

    def finish(self) -> str:
        """Return what was held back: no more is to come."""
        held, self._held = self._held, ""
        return self._redactor.text(held)


def _outside_matches(text: str, cut: int) -> int:
    """Move a cut to the left so that it falls into no match, unless the match is too long."""
    for found in find(text):
        if found.start < cut < found.end and found.end - found.start <= LONGEST_MATCH:
            return found.start
    return cut


def _values(body: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the string values of a JSON text stand, those that only name things left out."""
    key = b""
    for match in _LITERAL.finditer(body):
        if _COLON.match(body, match.end()):
            key = match.group()
            continue
        if key not in _NAMES:
            yield match.span()
