"""Texts that come in pieces, redacted across the borders of the pieces."""

import re
from typing import Final

from services.gateway.identity_documents import NAMES, WIDEST_GAP
from services.gateway.personal_data import LONGEST_MATCH, find, suspicious
from services.gateway.redaction import Redactor
from services.gateway.secret_formats import SECRET_NAMES

LONGEST_SECRET: Final = 8192
_BETWEEN: Final = (
    r"\s().\-/\u00ad\u00b7\u200b-\u2015\u2022\u2024\u2027\u202f\u2044\u205f-\u206f\u2212\u2215"
    r"\ufe00-\ufe0f\ufeff"
)
# What a match can begin with and not yet be complete. Words end with white space, and with letters
# that no detector knows.
_UNFINISHED: Final = re.compile(
    "|".join(
        (
            rf"(?:[+(]*\d[\d{_BETWEEN}]*+",  # digits in groups
            r"(?i:\b[A-Z]{2}[0-9]{2}[A-Z0-9 -]{0,60})",  # an IBAN
            rf"(?i:{NAMES.decode()})[^0-9@\"\n]{{0,{WIDEST_GAP}}}(?:[A-Z0-9][A-Z0-9 ./-]{{0,24}})?",
            rf"(?i:{SECRET_NAMES.decode()})[\\\"' ]*+[=:]?[\\\"' ]*+\S*+",
            r"P[A-Z<][A-Z]{3}[A-Z<]*+\s*+[A-Z0-9<]*+",  # the lines of a passport
            r"[^\s\u0e80-\u1fff\u2e80-\u2fff\u3001-\ud7ff]++)$",
        )
    )
)
# The same for what can be much longer: a token, a private key.
_LONG_UNFINISHED: Final = re.compile(
    r"(?:\beyJ[A-Za-z0-9_.-]*+"
    r"|-----BEGIN[A-Z0-9 ]*+(?:-{0,5}|-----(?:[A-Za-z0-9+/=\s\\:,.()]|-(?!-))*+"
    r"(?:-{1,5}(?:E(?:N(?:D[A-Z0-9 ]*+-{0,5})?)?)?)?))$"
)
_CUT_ESCAPE: Final = re.compile(r"\\+(?:u[0-9a-fA-F]{0,3})?$")
_STRUCTURE: Final = re.compile(r'["{}\[\]]')
_STRING_END: Final = re.compile(r'(?:[^"\\]++|\\.)*+"', re.DOTALL)
_QUOTE: Final = re.compile(r'(?:[^"\\]++|\\.)*+"', re.DOTALL)


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


class RunningText:
    """One text of a stream, redacted across the borders of its chunks.

    What could be the beginning of a match is held back until it is decided, and no more than
    `LONGEST_MATCH` characters of it, `LONGEST_SECRET` of a token or key.

    Args:
        redactor: the request's.
        arguments: whether the text is a tool's arguments, which are JSON.
    """

    __slots__ = ("_arguments", "_closing", "_held", "_inside", "_redactor")

    def __init__(self, redactor: Redactor, *, arguments: bool = False) -> None:
        """See the class."""
        self._redactor = redactor
        self._arguments = arguments
        self._closing = Closing() if arguments else None
        self._inside = False
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be released."""
        text = self._held + piece
        # Arguments that are complete have no more to come, and the next call may begin now.
        complete = self._closing is not None and self._closing.feed(piece)
        cut = len(text) if complete else _cut(text)
        self._held = text[cut:]
        return self._released(text[:cut])

    def finish(self) -> str:
        """Return what was held back: no more is to come."""
        held, self._held = self._held, ""
        return self._released(held)

    def _released(self, text: str) -> str:
        if not self._arguments:
            return self._redactor.text(text)
        redacted = self._redactor.arguments(text, inside=self._inside)
        for _ in _QUOTE.finditer(text):
            self._inside = not self._inside
        return redacted


def _cut(text: str) -> int:
    """Return up to where a text can be released."""
    unfinished = _UNFINISHED.search(text, max(0, len(text) - LONGEST_MATCH))
    cut = len(text) if unfinished is None else unfinished.start()
    if "eyJ" in text or "-----B" in text:
        secret = _LONG_UNFINISHED.search(text, max(0, len(text) - LONGEST_SECRET))
        if secret is not None:
            cut = min(cut, secret.start())
    if 0 < cut < len(text):
        cut = _outside_matches(text, cut)
        escape = _CUT_ESCAPE.search(text, max(0, cut - 12), cut)
        if escape is not None and escape.start():
            cut = escape.start()
    return cut


def _outside_matches(text: str, cut: int) -> int:
    """Move a cut to the left so that it falls into no match, unless the match is too long."""
    raw = text.encode("utf-8", "surrogatepass")
    if not suspicious(raw):
        return cut
    at = cut if len(raw) == len(text) else len(text[:cut].encode("utf-8", "surrogatepass"))
    for found in find(raw):
        if found.start >= at:
            break
        if found.start < at < found.end and (
            found.end - found.start <= LONGEST_MATCH or found.type in {"TOKEN", "PRIVATE_KEY"}
        ):
            return len(raw[: found.start].decode("utf-8", "surrogatepass"))
    return cut
