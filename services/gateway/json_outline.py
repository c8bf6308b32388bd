"""JSON up to a place: whether a value may stand there, and in which quotes a text would.

JSON stands in strings of JSON, as the arguments of tools do, and models write it in pieces. What is
decided about a place follows from what stands before it alone, so that a text in pieces is decided
like a whole one.
"""

import json
import re
from typing import Final

from services.gateway.effort import Effort

_DEEPEST: Final = 6
_TOKENS_PER_CHECK: Final = 64
# The lines of an event's data make up one text, in which the beginning of a line is white space.
_SPACE: Final = rb"(?:[ \t\r\n]|(?<=[\r\n])data:)*+"
_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_NUMBER: Final = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_SCALAR: Final = rb"(?:true|false|null|%b)(?![0-9A-Za-z.+-])" % _NUMBER
_TOKEN: Final = re.compile(rb'%b([{}\[\],:"]|%b)' % (_SPACE, _SCALAR), re.DOTALL)
_ONLY_SPACE: Final = re.compile(rb"%b\Z" % _SPACE)
# Whole items and members are passed over at once.
_ITEMS: Final = re.compile(rb"(?:%b(?:%b|%b)%b,)++" % (_SPACE, _STRING, _SCALAR, _SPACE), re.DOTALL)
_MEMBERS: Final = re.compile(
    rb"(?:%b%b%b:%b(?:%b|%b)%b,)++" % (_SPACE, _STRING, _SPACE, _SPACE, _STRING, _SCALAR, _SPACE),
    re.DOTALL,
)
_REST: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# How a string begins that could hold JSON.
_OPENING: Final = re.compile(rb"(?:[ \t\r\n]|\\[nrt])*+(?:[\[{]|\\u|\Z)")
_BEGIN: Final = frozenset((b"", b"{", b"[", b'"'))
_VALUE, _FIRST_ITEM, _FIRST_NAME, _NAME, _COLON, _NEXT, _STRANGE = range(7)


Standing = tuple[bytes | None, int]
"""The quotes of a text that stood at a place as a value, or None; the least escapes of a quote."""


class Outline:
    """Follows one text from its beginning.

    Args:
        effort: pays for what is followed; None for a text that comes piece by piece.
        depth: in how many strings of JSON the text stands already.
    """

    __slots__ = ("_depth", "_effort", "_in_name", "_inner", "_open", "_state", "_string", "_tokens")

    def __init__(self, effort: Effort | None = None, depth: int = 0) -> None:
        """Begin before the text."""
        self._effort = effort
        self._depth = depth
        self._open = bytearray()
        self._state = _VALUE
        self._string = False
        self._in_name = False
        self._inner: Outline | None = None
        self._tokens = 0

    @property
    def strange(self) -> bool:
        """Whether this is no JSON."""
        return self._state == _STRANGE

    def follow(self, text: bytes) -> None:
        """Take what comes next; it ends between two tokens, or within a string."""
        at = 0
        while at < len(text) and self._state != _STRANGE:
            at = self._through_string(text, at) if self._string else self._token(text, at)

    @property
    def standing(self) -> Standing:
        """The quotes that fit here, and how many backslashes they have at least."""
        return self.quotes(), self.escapes()

    def escapes(self) -> int:
        """Return how many backslashes a quote within has at least."""
        if self._state == _STRANGE or not self._string:
            return 0
        return 1 + (0 if self._inner is None else 2 * self._inner.escapes())

    def quotes(self) -> bytes | None:
        """Return the quotes of a text that stood here as a value; None where no value may stand."""
        if self._state == _STRANGE:
            return None
        if self._string:
            inner = None if self._inner is None else self._inner.quotes()
            return None if inner is None else json.dumps(inner.decode())[1:-1].encode()
        return b'"' if self._open and self._state in {_VALUE, _FIRST_ITEM} else None

    def _token(self, text: bytes, at: int) -> int:
        self._tokens += 1
        if self._effort is not None and self._tokens % _TOKENS_PER_CHECK == 0:
            self._effort.spend(0)
        inside = bytes(self._open[-1:])
        if self._state in {_VALUE, _FIRST_ITEM} and inside == b"[":
            items = _ITEMS.match(text, at)
            if items is not None:
                self._state = _VALUE
                return items.end()
        if self._state in {_NAME, _FIRST_NAME}:
            members = _MEMBERS.match(text, at)
            if members is not None:
                self._state = _NAME
                return members.end()
        found = _TOKEN.match(text, at)
        if found is None:
            if _ONLY_SPACE.match(text, at) is None:
                self._state = _STRANGE
            return len(text)
        self._state = self._after(found[1][:1], inside)
        return found.end()

    def _after(self, mark: bytes, inside: bytes) -> int:
        """Return what may come behind a token."""
        state = self._state
        if mark == b'"' and state in {_VALUE, _FIRST_ITEM, _NAME, _FIRST_NAME}:
            self._string, self._in_name = True, state in {_NAME, _FIRST_NAME}
            self._inner = None
            if not self._in_name and self._depth < _DEEPEST:
                self._inner = Outline(self._effort, self._depth + 1)
            return _COLON if self._in_name else _NEXT
        if mark in b"[{" and state in {_VALUE, _FIRST_ITEM}:
            self._open += mark
            return _FIRST_ITEM if mark == b"[" else _FIRST_NAME
        if mark == b":":
            return _VALUE if state == _COLON else _STRANGE
        if mark == b"," and state == _NEXT and inside:
            return _VALUE if inside == b"[" else _NAME
        if mark in b"]}" and inside == (b"[" if mark == b"]" else b"{"):
            ended = state in {_NEXT, _FIRST_ITEM if mark == b"]" else _FIRST_NAME}
            self._open.pop()
            return _NEXT if ended else _STRANGE
        scalar = mark not in b'[]{},:"' and state in {_VALUE, _FIRST_ITEM}
        return _NEXT if scalar else _STRANGE

    def _through_string(self, text: bytes, at: int) -> int:
        rest = _REST.match(text, at)
        end = at if rest is None else rest.end()
        if end > at and self._inner is not None:
            self._within(text[at:end])
        if end == len(text):
            return end
        if text[end : end + 1] == b"\\":
            # Half an escape: this text does not end where it may.
            self._state = _STRANGE
        self._string, self._inner = False, None
        return end + 1

    def _within(self, content: bytes) -> None:
        """Follow the JSON that the string may hold."""
        inner = self._inner
        assert inner is not None  # noqa: S101 - asked before
        if inner.fresh and _OPENING.match(content) is None:
            self._inner = None
            return
        try:
            text: str = json.loads(b'"' + content + b'"', strict=False)
        except ValueError:
            self._inner = None
            return
        inner.follow(text.encode("utf-8", "surrogatepass"))
        if inner.strange:
            self._inner = None

    @property
    def fresh(self) -> bool:
        """Whether nothing but white space came so far."""
        return self._state == _VALUE and not self._open


class Followed:
    """A text in pieces that is followed only as far as somebody asks."""

    __slots__ = ("_ahead", "_outline")

    def __init__(self) -> None:
        """Begin before the text."""
        self._outline: Outline | None = Outline()
        self._ahead: list[bytes] = []

    def pass_over(self, piece: bytes) -> None:
        """Take the next piece, in which nobody asks any more."""
        outline = self._outline
        if outline is None:
            return
        if not self._ahead and outline.fresh and piece.lstrip()[:1] not in _BEGIN:
            self._outline = None
            return
        self._ahead.append(piece)

    def standing(self, piece: bytes) -> Standing:
        """Return what may stand behind a piece, of which the rest is still to come."""
        outline = self._outline
        if outline is None:
            return None, 0
        self._ahead.append(piece)
        outline.follow(b"".join(self._ahead))
        self._ahead.clear()
        if outline.strange:
            self._outline = None
        return outline.standing
