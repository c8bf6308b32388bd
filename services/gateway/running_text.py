"""Texts that come in pieces, redacted across the borders of the pieces."""

import re
import string
from typing import Final

import re2

from services.gateway.closing import Closing
from services.gateway.folding import unescaped
from services.gateway.identity_documents import NAMES, WIDEST_GAP
from services.gateway.json_numbers import REACH
from services.gateway.json_outline import Followed
from services.gateway.national_phones import UNFINISHED
from services.gateway.personal_data import (
    LONGEST_MATCH,
    LONGEST_SECRET,
    Detector,
    latin_1,
)
from services.gateway.redaction import Redactor
from services.gateway.secret_formats import SECRET_NAMES

LONGEST_KNOWN: Final = 64 * 1024
"""No key is longer, and each piece of a stream is searched together with what is held."""
_LONG_TYPES: Final = frozenset(("TOKEN", "PRIVATE_KEY"))
# What digits in groups consist of, separators and digits of other scripts included.
_RUN: Final = b"0123456789 ().-/+\t\n\r\x01\xc2\xd9\xdb\xe2\xef\xf0" + bytes(range(0x80, 0xC0))
_LETTERS: Final = (string.ascii_letters + string.digits + "_").encode()
_DIGITS: Final = frozenset(b"0123456789")
_DIGIT: Final = re.compile(rb"[+(]*+(?:[0-9]|\xef\xbc|\xd9|\xdb|\xf0\x9d)")
# Letters of scripts without spaces between words end a word: no detector knows them.
_OTHER_LETTER: Final = re.compile(rb"[\xe3-\xed][\x80-\xbf]{2}")
_WINDOW: Final = 128
_FIRST_WORDS: Final = b"|".join(
    sorted({name.partition(b" ")[0] for name in NAMES.split(b"|") if b" " in name})
)
# What a match over several words can begin with and not yet be complete: an IBAN, a British
# number, a number or a secret after its name, the lines of a passport.
_BEGUN: Final = (
    rb"(?:(?i:\b[A-Z]{2}[0-9]{2}[A-Z0-9 -]{0,60})"
    rb"|\b[A-Z]{2} ?(?:[0-9]{2} ?){0,3}[0-9]?"
    rb"|\b(?i:%b)[^0-9@\x22\n]{0,%d}(?:[A-Z0-9][A-Z0-9 ./-]{0,24})?"
    rb"|\b(?i:%b) \S{0,16}"
    rb"|\b(?i:%b)[\\\x22' ]{0,6}[=:]?[\\\x22' ]{0,6}\S*"
    rb"|P[A-Z<][A-Z]{3}[A-Z<]*\s*[A-Z0-9<]*)" % (NAMES, WIDEST_GAP, _FIRST_WORDS, SECRET_NAMES)
)


def _ending(begun: bytes) -> re2._Regexp:
    """Return what finds one at the end of a text; a letter may be written as its code."""
    letters = re.sub(rb"\xc3[\x80-\xbf]", lambda found: rb"(?:%b|\x01{6})" % found[0], begun)
    return re2.compile(rb"(?:%b)\z" % letters, latin_1())


_UNFINISHED: Final = _ending(_BEGUN)
_UNFINISHED_PHONES: Final = _ending(UNFINISHED + b"|" + _BEGUN)
# The same for what can be much longer.
_TOKEN: Final = re.compile(rb"\beyJ[A-Za-z0-9_.-]*+$")
_PRIVATE_KEY: Final = re.compile(
    rb"-----B(?:E(?:G(?:I(?:N[A-Z0-9 ]*+(?:-{0,5}|-----(?:[A-Za-z0-9+/=\s\\:,.()]|-[A-Za-z0-9])*+"
    rb"(?:-{1,5}|-----E(?:N(?:D[A-Z0-9 ]*+-{0,5})?)?)?))?)?)?)?"
)
# A placeholder that is not complete, or none yet.
_PLACEHOLDER: Final = re.compile(rb"\[(?:[A-Z][A-Z_]{0,15}(?:_[0-9]{0,9})?)?$")
_LONGEST_PLACEHOLDER: Final = 28
# Also one that is cut, at the end.
_ESCAPE: Final = re.compile(rb"\\u(?:[0-9a-fA-F]{4}|[0-9a-fA-F]{0,3}\Z)")
_NO_LETTER: Final = b"\x01" * 6
_CUT_ESCAPE: Final = re.compile(rb"\\+(?:u[0-9a-fA-F]{0,3})?$")


class RunningText:
    """One text of a stream, redacted across the borders of its chunks.

    What could be the beginning of a match is held back until it is decided, and no more than
    `LONGEST_MATCH` characters of it, `LONGEST_SECRET` of a token or key. One that is known for it
    is held until it ends, up to `LONGEST_KNOWN`.

    Args:
        redactor: the request's.
        arguments: whether the text is a tool's arguments, which are JSON.
    """

    __slots__ = ("_before", "_closing", "_followed", "_held", "_redactor")

    def __init__(self, redactor: Redactor, *, arguments: bool = False) -> None:
        """See the class."""
        self._redactor = redactor
        self._closing = Closing() if arguments else None
        self._followed = Followed()
        self._before = b""
        self._held = b""

    def feed(self, piece: str) -> str:
        """Take the next piece and return what can be released."""
        raw = self._held + piece.encode("utf-8", "surrogatepass")
        # Arguments that are complete have no more to come, and the next call may begin now.
        complete = self._closing is not None and self._closing.feed(piece)
        cut = len(raw) if complete else _cut(raw, self._redactor.detector)
        self._held = raw[cut:]
        return self._released(raw[:cut])

    def finish(self) -> str:
        """Return what was held back: no more is to come."""
        held, self._held = self._held, b""
        return self._released(held)

    def _released(self, raw: bytes) -> str:
        if not raw:
            return ""
        redacted = self._redactor.piece(raw, self._before, self._held, self._followed)
        self._before = (self._before + raw)[-REACH:]
        return redacted.decode("utf-8", "surrogatepass")


def _cut(raw: bytes, detector: Detector) -> int:
    """Return up to where a text can be released."""
    size = len(raw)
    seen = unescaped(raw)
    cut = max(size - _last_word(raw), size - LONGEST_MATCH, 0)
    cut = min(cut, _run(seen, size))
    if cut < size and seen[cut] in _DIGITS:
        cut = min(cut, _run(seen, cut))
    window = max(0, size - _WINDOW)
    unfinished = _UNFINISHED_PHONES if detector.regions else _UNFINISHED
    for text in (raw, seen, _ESCAPE.sub(_NO_LETTER, raw)) if b"\\" in raw else (raw,):
        several = unfinished.search(text, window)
        if several is not None:
            cut = min(cut, several.start())
    cut = min(cut, _long(raw))
    return _whole(raw, cut, detector) if 0 < cut < size else cut


def _run(raw: bytes, end: int) -> int:
    """Return where the digits in groups begin that a text has before a place; it for none.

    With the separators before them, since a number behind a point is none of its own, and likewise
    with the letters right before.
    """
    outer = raw[:end].rstrip(_RUN)
    if len(outer) == end:
        return end
    begun = max(len(outer.rstrip(_LETTERS)), end - LONGEST_MATCH)
    return begun if _DIGIT.search(raw, len(outer), end) else end


def _last_word(raw: bytes) -> int:
    """Return how long the last word is, which could be the beginning of anything."""
    tail = raw[-LONGEST_MATCH:]
    word = tail.rsplit(None, 1)[-1] if tail and not tail[-1:].isspace() else b""
    return len(word) if word.isascii() else len(_OTHER_LETTER.split(word)[-1])


def _long(raw: bytes) -> int:
    """Return where a token or a private key begins that is not complete; the end for none."""
    size = cut = len(raw)
    least = max(0, size - LONGEST_SECRET)
    if b"eyJ" in raw:
        token = _TOKEN.search(raw, least)
        cut = size if token is None else token.start()
    begun = raw.rfind(b"-----B", least)
    if begun >= 0 and _PRIVATE_KEY.fullmatch(raw, begun):
        cut = min(cut, begun)
    return cut


def _whole(raw: bytes, cut: int, detector: Detector) -> int:
    """Move a cut to the left so that it falls into nothing that must stay in one piece.

    That is a match, a placeholder, for which an original may have to stand, an escape, a character.
    """
    if detector.suspicious(raw):
        for found in detector.find(raw):
            if found.since >= cut:
                break
            if found.since < cut < found.end and (
                found.end - found.since
                <= (LONGEST_KNOWN if found.type in _LONG_TYPES else LONGEST_MATCH)
            ):
                cut = found.since
                break
    placeholder = _PLACEHOLDER.search(raw, max(0, cut - _LONGEST_PLACEHOLDER), cut)
    if placeholder is not None:
        cut = placeholder.start()
    while cut and raw[cut] & 0xC0 == 0x80:  # noqa: PLR2004 - the middle of a character
        cut -= 1
    escape = _CUT_ESCAPE.search(raw, max(0, cut - 12), cut)
    return cut if escape is None else escape.start()
