"""Notices that a key's file changed, and has the new key taken into use, without a restart.

Files are compared every few seconds, or at once when asked (SIGHUP). What cannot be used is left
alone: the keys in use go on signing. A file that is bad is looked at twice before anything is said,
because it may be in the middle of being written.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from services.audit.keys.signers import KeyProblem
from services.audit.keys.source import KeySource, LoadedKey


class WatchObserver(Protocol):
    """Is told what a look at the keys finds."""

    def looked(self) -> None:
        """A look begins; time has passed."""
        ...

    def refused(self, problem: str) -> None:
        """The keys that lie there cannot be used; those in use go on signing."""
        ...

    def accepted(self) -> None:
        """The keys that lie there are in use."""
        ...


class KeyWatch:
    """Looks after the sources of the keys in use.

    Args:
        sources: where they are from.
        load: returns them, checked; runs in a thread.
        take: takes them into use, or says that it must be tried later.
        finish: does what is left of an earlier change.
        observer: is told what is found.
        interval_s: how often to look.
    """

    def __init__(  # noqa: PLR0913 - its neighbours
        self,
        *,
        sources: Sequence[KeySource],
        load: Callable[[], Sequence[LoadedKey]],
        take: Callable[[Sequence[LoadedKey]], Awaitable[bool]],
        finish: Callable[[], Awaitable[None]],
        observer: WatchObserver,
        interval_s: float,
    ) -> None:
        """Remember what the sources hold now, which is what is in use."""
        self._sources = sources
        self._load = load
        self._take = take
        self._finish = finish
        self._observer = observer
        self._interval_s = interval_s
        self._asked = asyncio.Event()
        self._known = self._digest()
        self._suspect = b""

    def hurry(self) -> None:
        """Look at once, and judge what is there."""
        self._asked.set()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            await self.look(asked=asked)

    async def look(self, *, asked: bool = False) -> None:
        """Look once.

        Args:
            asked: whether somebody says that the files are complete.
        """
        self._observer.looked()
        found = await asyncio.to_thread(self._digest)
        try:
            await self._finish()
            if found == self._known and not (asked and self._suspect):
                return
            if await self._take(await asyncio.to_thread(self._load)):
                self._known, self._suspect = found, b""
                self._observer.accepted()
        except KeyProblem as problem:
            if asked or found == self._suspect:
                self._observer.refused(str(problem))
                self._known = found
            self._suspect = found
        except OSError as error:  # The disk refuses the archive; the next look tries again.
            self._observer.refused(f"the key archive cannot be written: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the keys in use go on signing
            self._observer.refused(f"the keys could not be looked at: {type(error).__name__}")

    def _digest(self) -> bytes:
        return b"".join(source.digest() for source in self._sources)
