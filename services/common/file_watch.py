"""Keeps what decides in step with the file that an operator writes it in.

It looks once a second; the content decides, not the time stamps. A bad file changes nothing and is
told.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from services.common import operator_file
from services.common.operator_file import LOOK_EVERY_S, Lookout, OperatorFileError


class Versioned(Protocol):
    """What a file means."""

    @property
    def version(self) -> str:
        """What tells it from another; the same content has the same."""
        ...


Meaning = TypeVar("Meaning", bound=Versioned)

Tell = Callable[[str, str, str], None]
"""Is told of each file that was read: what is wrong with it (empty where it is good), the version
that decided before (empty at first), and the one that decides now."""


class FileWatch(Generic[Meaning]):
    """Reads a file again when it changes.

    Args:
        path: the file.
        parse: makes of its content what it means; raises `OperatorFileError` for a bad one.
        adopt: makes what a changed file means decide.
        tell: see `Tell`.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], Meaning],
        adopt: Callable[[Meaning], None],
        tell: Tell,
    ) -> None:
        """See the class."""
        self._path = path
        self._parse = parse
        self._adopt = adopt
        self._tell = tell
        self._last: bytes | str = b""
        self._version = ""
        self.problem = ""
        """Why the last change was refused; empty while the file decides."""
        self._lookout = Lookout(self.look)

    def first(self) -> Meaning:
        """Read the file for the first time and return what it means; adopting it is the caller's.

        Raises:
            OperatorFileError: it cannot be read, or is a bad one.
        """
        content = operator_file.read(self._path)
        meaning = self._parse(content)
        self._last, self._version = content, meaning.version
        self._tell("", "", meaning.version)
        return meaning

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Begin to look."""
        self._lookout.start(every_s)

    async def close(self) -> None:
        """Stop looking."""
        await self._lookout.close()

    async def look(self) -> None:
        """Read the file once and adopt what is new in it."""
        content = await asyncio.to_thread(self._read)
        if content == self._last:
            return
        self._last = content
        before = self._version
        try:
            if isinstance(content, str):
                raise OperatorFileError(content)  # noqa: TRY301 - a bad file like the others
            meaning = await asyncio.to_thread(self._parse, content)
        except OperatorFileError as error:
            self.problem = str(error)
            self._tell(self.problem, before, before)
            return
        self._version, self.problem = meaning.version, ""
        self._adopt(meaning)
        self._tell("", before, meaning.version)

    def _read(self) -> bytes | str:
        """Return the file's content, or why it cannot be read."""
        try:
            return operator_file.read(self._path)
        except OperatorFileError as error:
            return str(error)
