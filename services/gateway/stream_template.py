"""Events of a stream that differ in one text: most of them, and what makes them cheap.

What stands around the text of an event is searched once. As long as the next events have the same
around theirs, only the text is looked at.
"""

import re
from typing import Final

import msgspec

from services.gateway.log_probabilities import spells
from services.gateway.redaction import Redactor
from services.gateway.running_text import RunningText

_LITERAL: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_DECODE: Final = msgspec.json.Decoder(str).decode
_ENCODE: Final = msgspec.json.Encoder().encode


class Template:
    """What stands around the text of the last event.

    Args:
        redactor: the request's.
    """

    __slots__ = ("_after", "_before", "_redactor", "_running")

    def __init__(self, redactor: Redactor) -> None:
        """See the class."""
        self._redactor = redactor
        self._before = self._after = b""
        self._running: RunningText | None = None

    def remember(self, event: bytes, start: int, end: int, running: RunningText) -> None:
        """Take an event for the next ones' template, where nothing around its text is personal.

        Args:
            event: the raw event.
            start: where the string with its text begins, with the quote.
            end: where it ends.
            running: the text that it is a piece of.
        """
        before, after = event[:start], event[end:]
        if self._running is not None and before == self._before and after == self._after:
            self._running = running
            return
        around = before + b'""' + after
        self._running = None
        if not spells(around) and self._redactor.json(around) is around:
            self._before, self._after, self._running = before, after, running

    def forget(self) -> None:
        """Take the next event as it is."""
        self._running = None

    def event(self, event: bytes, *, empty: bool) -> bytes | None:
        """Return what is released of an event; None when it is not like the last.

        Args:
            event: the raw event.
            empty: whether an event of which nothing is released goes out without text.
        """
        start, end = len(self._before), len(event) - len(self._after)
        if (
            self._running is None
            or not event.startswith(self._before)
            or not event.endswith(self._after)
            or _LITERAL.fullmatch(event, start, max(start, end)) is None
        ):
            return None
        literal = event[start:end]
        try:
            text = _DECODE(literal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        released = self._running.feed(text)
        if released == text:
            return event
        if not released and not empty:
            return b""
        return b"%b%b%b" % (self._before, _ENCODE(released), self._after)
