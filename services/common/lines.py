"""Writes log lines in bunches, since each write to a file gives up the interpreter lock.

Within an event loop a line waits for others, 20 ms at most, and is rendered together with them: for
a line on each call that is several times cheaper. What is urgent goes out at once, with everything
before it.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Protocol

_DELAY_S = 0.02
_PENDING_LINES = 512


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""
        ...

    def flush(self) -> object:
        """Pass them on."""
        ...


Line = bytes | dict[str, Any]


class LineWriter:
    """Gathers lines; safe to use from several threads.

    Args:
        sink: where they go.
        render: turns an event that was handed over as such into a line.
    """

    def __init__(self, sink: Sink, render: Callable[[dict[str, Any]], bytes]) -> None:
        """See the class."""
        self._sink = sink
        self._render = render
        self._lines: list[Line] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def later(self, line: Line) -> None:
        """Write a line soon; at once where no event loop runs."""
        lines = self._lines
        lines.append(line)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
            return
        if loop is not self._loop:
            self._loop = loop
            loop.call_later(_DELAY_S, self._tick)
        elif len(lines) >= _PENDING_LINES:
            self.flush()

    def now(self, line: bytes) -> None:
        """Write a line and everything before it."""
        self._lines.append(line)
        self.flush()

    def flush(self) -> None:
        """Write everything; lines are dropped when nobody can read them any more."""
        with self._lock:
            lines, self._lines = self._lines, []
            if not lines:
                return
            try:
                rendered = [
                    line if isinstance(line, bytes) else self._render(line) for line in lines
                ]
                self._sink.write(b"\n".join(rendered) + b"\n")
                self._sink.flush()
            except (OSError, ValueError):
                return

    def _tick(self) -> None:
        self._loop = None
        self.flush()
