"""Texts as a detector should see them: without escapes, invisible characters and lookalikes.

Detectors work on bytes with ASCII patterns. JSON escapes at any depth, digits of other scripts,
full-width forms, zero-width characters and odd hyphens would hide a value from them, so they are
folded away in a shadow of the text, and what is found there is carried back to where it stands.
"""

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache
from typing import Final

from services.gateway.effort import Effort

FILLER: Final = b"\x01"
"""Stands in a shadow where an escape's backslash stood; it belongs to no word."""

_ESCAPES: Final = tuple(
    (b"\\" + letter, FILLER + plain)
    for letter, plain in ((b"n", b"\n"), (b"r", b"\r"), (b"t", b"\t"), (b'"', b'"'), (b"/", b"/"))
)

_INVISIBLE: Final = (
    rb"\xc2\xad|\xcd\x8f|\xd8\x9c|\xe1\x85[\x9f\xa0]|\xe1\xa0[\x8b-\x8f]|\xe2\x80[\x8b-\x8f\xaa-\xae]"
    rb"|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xef\xb8[\x80-\x8f]"
)
# Full-width forms, digits of the scripts in use, mathematical letters and digits.
_LOOKALIKE: Final = (
    rb"\xef\xbc[\x81-\xbf]|\xef\xbd[\x80-\x9e]|\xef\xb9[\xa0-\xab]|\xd9[\xa0-\xa9]|\xdb[\xb0-\xb9]"
    rb"|\xe0[\xa5\xa7\xa9\xab\xad\xaf\xb1\xb3\xb5\xb7\xb9\xbb\xbc][\xa6-\xaf]"
    rb"|\xf0\x9d[\x90-\x9f][\x80-\xbf]"
)
# Behind digits and their brackets only: prose is full of dashes and of spaces that do not break.
_BETWEEN_DIGITS: Final = (
    rb"[0-9)](?:\xc2[\xa0\xb7]|\xe2\x80[\x80-\x95\xa2\xa4\xa7\xaf]|\xe2\x81[\x84\x9f]|\xe2\x88[\x92\x95]"
    rb"|\xe3\x80\x80)"
)
# Escapes of letters that no detector looks for are only letters.
_OTHER_ESCAPE: Final = re.compile(
    rb"\\u(?:[3-9a-cA-C][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|[eE][0-9a-fA-F]{3}|[fF][0-9a-dA-D][0-9a-fA-F]{2})"
)
_OTHER_LETTER: Final = b"\xe4\xb8\x80\xe4\xb8\x80"
_FOLD: Final = re.compile(
    rb"\\++u[dD]835\\++u[dD][c-fC-F][0-9a-fA-F]{2}|\\++u[0-9a-fA-F]{4}|%b|%b|%b"
    % (_INVISIBLE, _LOOKALIKE, _BETWEEN_DIGITS)
)
TRIGGER: Final = rb"\\u(?:00[2-7aA]|0[069eE]|20|[fF][eEfF]|[dD]835)|%b|%b|%b" % (
    _INVISIBLE,
    _LOOKALIKE,
    _BETWEEN_DIGITS,
)
"""What of a raw text calls for folding, for a scanner."""
_SEPARATORS: Final = (
    {
        character: "-" if unicodedata.category(character) == "Pd" or character == "\u2212" else " "
        for character in map(chr, (0xA0, *range(0x2000, 0x2016), 0x202F, 0x205F, 0x2212, 0x3000))
    }
    | dict.fromkeys("\xb7\u2022\u2024\u2027", ".")
    | dict.fromkeys("\u2044\u2215", "/")
)
_HIDDEN: Final = re.compile(f"(?:{_INVISIBLE.decode('latin-1')})".encode("latin-1"))


FOLDS_PER_CHECK: Final = 32
"""So many cost what the check of one candidate costs."""
_LONGEST_KNOWN: Final = 14


class Shadow:
    """A folded text, and where its bytes stand in the raw one.

    Args:
        raw: UTF-8; JSON, or any text.
        effort: pays for what is folded; None for a text of bounded length.

    Raises:
        TooMuchToCheck: there is more to fold than one request is worth.
    """

    __slots__ = ("_effort", "_raw_at", "_shadow_at", "data")

    def __init__(self, raw: bytes, effort: Effort | None = None) -> None:
        """See the class."""
        self._effort = effort
        # One byte is looked for far faster than two, and where no code stood none comes up.
        codes = b"\\" in raw and b"\\u" in raw
        data = unescaped(raw, codes=codes)
        self._shadow_at: list[int] = []
        self._raw_at: list[int] = []
        plain = data.isascii() and not (codes and b"\\u" in data)
        self.data = data if plain else self._folded(data)

    def at(self, position: int) -> int:
        """Return where a position of the shadow stands in the raw text."""
        index = bisect_right(self._shadow_at, position) - 1
        if index < 0:
            return position
        return self._raw_at[index] + position - self._shadow_at[index]

    def _folded(self, data: bytes) -> bytes:
        pieces: list[bytes] = []
        done = size = seen = 0
        for match in _FOLD.finditer(data):
            found = match.group()
            plain = _known(found) if len(found) <= _LONGEST_KNOWN else _plain(found)
            seen += 1
            if seen % FOLDS_PER_CHECK == 0 and self._effort is not None:
                self._effort.spend(0)
            if plain is None:
                continue
            start, end = match.span()
            pieces += data[done:start], plain
            size += start - done + len(plain)
            done = end
            self._shadow_at.append(size)
            self._raw_at.append(end)
        return b"".join([*pieces, data[done:]]) if pieces else data


def unescaped(raw: bytes, *, codes: bool = True) -> bytes:
    """Return a text with its commonest escapes seen through; each byte keeps its place.

    Args:
        raw: the text.
        codes: whether escapes with a code may stand in it.
    """
    if b"\\" not in raw:
        return raw
    data = raw
    for escape, plain in _ESCAPES:
        data = data.replace(escape, plain)
    return _OTHER_ESCAPE.sub(_OTHER_LETTER, data) if codes and b"\\u" in data else data


def plain_text(shadow: bytes) -> bytes:
    """Return a slice of a shadow as a text of its own."""
    return shadow.replace(FILLER, b"").replace(b"\\", b"")


@lru_cache(maxsize=4096)
def _known(found: bytes) -> bytes | None:
    return _plain(found)


def _plain(found: bytes) -> bytes | None:
    r"""Return what a detector should see in the place of a character or of its `\u` escape."""
    if found[:1] == b"\\":
        units = b"".join(bytes.fromhex(part[:4].decode()) for part in found.split(b"u")[1:])
        character = units.decode("utf-16-be", "replace")
        before = ""
    elif found[0] < 0x80:  # noqa: PLR2004 - a digit, then what stands between it and the next
        before, character = chr(found[0]), found[1:].decode()
    else:
        before, character = "", found.decode()
    encoded = character.encode("utf-8", "surrogatepass")
    if _HIDDEN.fullmatch(encoded):
        return before.encode()
    separator = _SEPARATORS.get(character)
    if separator is not None:
        return (before + separator).encode()
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit).encode()
    folded = unicodedata.normalize("NFKC", character)
    if len(folded) == 1 and folded.isascii():
        return folded.encode()
    return encoded if found[:1] == b"\\" else None
