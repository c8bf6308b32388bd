"""YAML files that operators write and change while a service runs.

They are read whole and strictly: an unknown name, a key that stands twice, or a shape that is not
the declared one is a sentence and not half a configuration. What a file means, and what becomes of
a bad one, is for whoever asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import structlog
import yaml

MAX_BYTES: Final = 1024 * 1024
LOOK_EVERY_S: Final = 1.0

_log = structlog.get_logger()
Shape = TypeVar("Shape")


class OperatorFileError(Exception):
    """The file cannot be read, or is not what it must be; the message says where."""


def read(path: Path) -> bytes:
    """Return a file's content, or a little more than the most that `parse` takes.

    Raises:
        OperatorFileError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise OperatorFileError(msg) from None


def parse(text: bytes, shape: type[Shape]) -> Shape:
    """Return what YAML says, in a declared shape.

    Raises:
        OperatorFileError: it says something else.
    """
    if len(text) > MAX_BYTES:
        msg = f"the file is larger than {MAX_BYTES} bytes"
        raise OperatorFileError(msg)
    try:
        return msgspec.convert(yaml.load(text, _Loader), shape)  # noqa: S506 - a safe loader, and stricter
    except (yaml.YAMLError, RecursionError) as error:
        raise OperatorFileError(" ".join(str(error).split())) from None
    except msgspec.ValidationError as error:
        raise OperatorFileError(str(error).replace("`$", "`").replace("`.", "`")) from None
    except (ValueError, AttributeError) as error:
        # What YAML's own readers of dates and numbers raise.
        said = "it is no date" if isinstance(error, AttributeError) else str(error)
        msg = f"a value cannot be read: {said[:200]}"
        raise OperatorFileError(msg) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - its form
        """Return a mapping whose keys are all different."""
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # The loader refuses it in its own words.
            if key in seen:
                msg = f"line {node.start_mark.line + 1}: {key!r} stands twice"
                raise OperatorFileError(msg)
            seen.add(key)
        return super().construct_mapping(node, deep)


class Lookout:
    """Looks at files again and again, or sooner when it is asked to.

    It looks by the clock because mounted configuration is swapped by links, and file systems differ
    in what they announce.

    Args:
        look: looks once; what it raises is logged, and the next look may be better.
    """

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        """See the class."""
        self._look = look
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._go_on(every_s))

    def ask(self) -> None:
        """Look now."""
        self._asked.set()

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _go_on(self, every_s: float) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self._look()
            except Exception:  # noqa: BLE001 - whatever it is
                _log.exception("looking at an operator's file failed")
