"""Follows the route file and the key files. A bad file changes nothing and is visible.

It looks once a second. The content decides, not the time stamps.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import structlog

from services.common import operator_file
from services.common.operator_file import LOOK_EVERY_S, Lookout, OperatorFileError
from services.model.assembly import Assembly
from services.model.credential import CredentialError
from services.model.declaration import Declaration
from services.model.ports import Health
from services.model.route import Routes
from services.model.route_file import RouteFileError

_log = structlog.get_logger()


class Gauge(Protocol):
    """Where changed files are counted."""

    def routes_read(self, *, good: bool) -> None:
        """Take note of a changed route file."""
        ...

    def key_read(self, provider: str, *, good: bool) -> None:
        """Take note of a changed key file."""
        ...


class Trail(Protocol):
    """Where changes are recorded; must not block."""

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        """Record a change."""
        ...


class RouteWatch:
    """Keeps the routes that decide in step with their files.

    Args:
        path: the route file; None where there is none, and only keys are followed.
        parse: makes a declaration of its content; of no content where there is no file.
        assembly: makes routes of a declaration.
        health: shown as the dependencies `routes` and `provider_key:<provider>`.
        gauge: the metrics.
        trail: the audit log.
    """

    def __init__(  # noqa: PLR0913 - what a change is told to
        self,
        path: Path | None,
        parse: Callable[[bytes], Declaration],
        assembly: Assembly,
        *,
        health: Health,
        gauge: Gauge,
        trail: Trail,
    ) -> None:
        """See the class."""
        self.adopt: Callable[[Routes], None] = _ignore
        """Makes routes decide; set before `start`."""
        self._path = path
        self._parse = parse
        self._assembly = assembly
        self._health = health
        self._gauge = gauge
        self._trail = trail
        self._last: bytes | str = b""
        self._version = ""
        self._bad_keys: dict[str, str] = {}
        self._lookout = Lookout(self.look)

    def first(self) -> Routes:
        """Read everything for the first time and return its routes.

        Raises:
            RouteFileError: the file cannot be read, or declares no routes.
            CredentialError: a key file cannot be read, or holds no key.
        """
        content = self._read()
        if isinstance(content, str):
            raise RouteFileError(content)
        declaration = self._parse(content)
        routes = self._assembly.build(declaration)
        self._last, self._version = content, declaration.version
        if self._path is not None:
            self._health.set("routes", serving=True)
        return routes

    def start(self, every_s: float = LOOK_EVERY_S) -> None:
        """Begin to look."""
        self._lookout.start(every_s)

    def ask(self) -> None:
        """Look now rather than at the next second."""
        self._lookout.ask()

    async def close(self) -> None:
        """Stop looking."""
        await self._lookout.close()

    async def look(self) -> None:
        """Read every file once, and adopt what is new."""
        await self._look_at_keys()
        content = await asyncio.to_thread(self._read)
        if content == self._last:
            return
        self._last = content
        if isinstance(content, str):
            self._refuse(content)
            return
        try:
            declaration = await asyncio.to_thread(self._parse, content)
            routes = self._assembly.build(declaration)
        except (RouteFileError, CredentialError) as error:
            self._refuse(str(error))
            return
        before, self._version = self._version, declaration.version
        self.adopt(routes)
        self._health.set("routes", serving=True)
        self._gauge.routes_read(good=True)
        if before != self._version:
            _log.info("routes changed", path=str(self._path), before=before, now=self._version)
            self._trail.configuration_changed(
                {"setting": "model_routes", "before": before, "now": self._version}
            )

    def _refuse(self, problem: str) -> None:
        """Keep the routes that decide, and say so everywhere."""
        _log.error("route file refused", path=str(self._path), problem=problem, keeps=self._version)
        detail = f"the route file is bad, {self._version} goes on: {problem}"
        self._health.set("routes", serving=False, detail=detail)
        self._gauge.routes_read(good=False)
        self._trail.configuration_changed(
            {"setting": "model_routes", "refused": problem[:500], "keeps": self._version}
        )

    async def _look_at_keys(self) -> None:
        for provider, credential in tuple(self._assembly.credentials.items()):
            if credential.path is None:
                continue
            problem, changed = "", False
            try:
                changed = await asyncio.to_thread(credential.look)
            except CredentialError as error:
                problem = str(error)
            before = self._bad_keys.get(provider, "")
            if changed:
                _log.info("provider key changed", provider=provider)
                self._trail.configuration_changed({"setting": "provider_key", "provider": provider})
            if problem and problem != before:
                _log.error("provider key refused", provider=provider, problem=problem)
            if changed or problem != before:
                self._gauge.key_read(provider, good=not problem)
                detail = f"{problem}; the last key stays" if problem else ""
                self._health.set(f"provider_key:{provider}", not problem, detail)
            self._bad_keys[provider] = problem

    def _read(self) -> bytes | str:
        """Return the file's content, or why it cannot be read; nothing where there is no file."""
        if self._path is None:
            return b""
        try:
            return operator_file.read(self._path)
        except OperatorFileError as error:
            return str(error)


def _ignore(_: Routes) -> None:
    """Adopt nothing."""
