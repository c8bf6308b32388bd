"""Reads the file of roles again when it changes. A bad file changes nothing and is visible."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.common import operator_file
from services.common.operator_file import Lookout, OperatorFileError
from services.gateway import roles
from services.gateway.roles import RolePolicy, RolesError


class Observer(Protocol):
    """Is told of changes."""

    def roles_read(self, problem: str, before: str, now: str) -> None:
        """Take note of a file that was read: `problem` is empty where it is good."""
        ...


class RolesWatch:
    """Keeps the roles that decide in step with their file.

    Args:
        path: the file.
        adopt: makes a policy decide.
        observer: is told of changes and of bad files.
    """

    def __init__(self, path: Path, adopt: Callable[[RolePolicy], None], observer: Observer) -> None:
        """See the class."""
        self._path = path
        self._adopt = adopt
        self._observer = observer
        self._last: bytes | str = b""
        self._version = ""
        self.problem = ""
        """Why the last change was refused; empty while the file decides."""
        self._lookout = Lookout(self.look)

    def first(self) -> None:
        """Read the file for the first time and let it decide.

        Raises:
            RolesError: it cannot be read, or declares no roles.
        """
        content = self._read()
        if isinstance(content, str):
            raise RolesError(content)
        policy = roles.parse(content)
        self._last, self._version = content, policy.version
        self._adopt(policy)
        self._observer.roles_read("", "", policy.version)

    def start(self) -> None:
        """Begin to look."""
        self._lookout.start()

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
                raise RolesError(content)  # noqa: TRY301 - a bad file like the others
            policy = await asyncio.to_thread(roles.parse, content)
        except RolesError as error:
            self.problem = str(error)
            self._observer.roles_read(self.problem, before, before)
            return
        self._version, self.problem = policy.version, ""
        self._adopt(policy)
        self._observer.roles_read("", before, policy.version)

    def _read(self) -> bytes | str:
        """Return the file's content, or why it cannot be read."""
        try:
            return operator_file.read(self._path)
        except OperatorFileError as error:
            return str(error)
