"""Server-sent events, taken apart without changing a byte.

The format is WHATWG HTML, section 9.2.6. The parser is incremental and bounded: it hands out whole
events as they came off the wire, and refuses an event that does not end.
"""

import re
from typing import NamedTuple

_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LONGEST_BLANK_LINE = 4
_LAST = frozenset({b"data: [DONE]", b"data:[DONE]"})
_BOM = b"\xef\xbb\xbf"


class SSEError(ValueError):
    """The bytes are no stream of bounded events; the message is a sentence for the caller."""


class Event(NamedTuple):
    """One event.

    Args:
        raw: its bytes, the empty line at its end included.
        data: its `data` lines joined; None when it has none, such as a keep-alive comment.
    """

    raw: bytes
    data: bytes | None


class Parser:
    """Cuts a byte stream into events.

    Args:
        max_event_bytes: the longest event that is accepted.
    """

    def __init__(self, max_event_bytes: int = 1024 * 1024) -> None:
        """See the class."""
        self._max_event_bytes = max_event_bytes
        self._rest = b""

    def feed(self, received: bytes) -> list[Event]:
        """Take bytes and return the events that they complete.

        Raises:
            SSEError: an event is longer than allowed.
        """
        events: list[Event] = []
        searched_to = max(0, len(self._rest) - _LONGEST_BLANK_LINE + 1)
        buffer = self._rest + received if self._rest else received
        start = 0
        while (end := _BLANK_LINE.search(buffer, searched_to)) is not None:
            raw = buffer[start : end.end()]
            self._check(len(raw))
            events.append(Event(raw, _data(raw)))
            start = searched_to = end.end()
        self._rest = buffer[start:] if start else buffer
        self._check(len(self._rest))
        return events

    def finish(self) -> list[Event]:
        """Accept the end of the bytes; return OpenAI's last event where its empty line is missing.

        Raises:
            SSEError: it comes in the middle of an event.
        """
        rest = self._rest.strip(b"\r\n")
        if rest in _LAST:
            return [Event(rest + b"\n\n", b"[DONE]")]
        if rest:
            msg = "The provider's stream ends in the middle of an event."
            raise SSEError(msg)
        return []

    def _check(self, size: int) -> None:
        if size > self._max_event_bytes:
            msg = f"The provider sent an event of more than {self._max_event_bytes} bytes."
            raise SSEError(msg)


def _data(raw: bytes) -> bytes | None:
    if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw:
        return raw[6:-2]
    lines = [
        line[5:].removeprefix(b" ") if line.startswith(b"data:") else b""
        for line in _LINE_END.split(raw.removeprefix(_BOM))
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(lines) if lines else None
