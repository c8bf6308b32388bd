"""Reads the content policy again when it changes. A bad file changes nothing and is visible."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from services.common import operator_file
from services.common.operator_file import Lookout, OperatorFileError
from services.gateway.privacy import Policy, PrivacyError


class Observer(Protocol):
    """Is told of changes."""

    def content_policy_read(self, problem: str, before: str, now: str) -> None:
        """Take note of a file that was read: `problem` is empty where it is good."""
        ...


class ContentPolicyWatch:
    """Keeps the policy that decides in step with its file.

    Args:
        path: the file.
        parse: makes a policy of its content.
        adopt: makes a policy decide.
        observer: is told of changes and of bad files.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], Policy],
        adopt: Callable[[Policy], None],
        observer: Observer,
    ) -> None:
        """See the class."""
        self._path = path
        self._parse = parse
        self._adopt = adopt
        self._observer = observer
        self._last: bytes | str = b""
        self._version = ""
        self._lookout = Lookout(self.look)

    def first(self) -> None:
        """Read the file for the first time and let it decide.

        Raises:
            PrivacyError: it cannot be read, or is no policy.
        """
        content = self._read()
        if isinstance(content, str):
            raise PrivacyError(content)
        policy = self._parse(content)
        self._last, self._version = content, policy.version
        self._adopt(policy)
        self._observer.content_policy_read("", "", policy.version)

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
                raise PrivacyError(content)  # noqa: TRY301 - a bad file like the others
            policy = await asyncio.to_thread(self._parse, content)
        except PrivacyError as error:
            self._observer.content_policy_read(str(error), before, before)
            return
        self._version = policy.version
        self._adopt(policy)
        self._observer.content_policy_read("", before, policy.version)

    def _read(self) -> bytes | str:
        """Return the file's content, or why it cannot be read."""
        try:
            return operator_file.read(self._path)
        except OperatorFileError as error:
            return str(error)
