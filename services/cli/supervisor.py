"""Keeps child processes running, and ends them in order.

A child that dies is started again, after a pause that grows to one second. Children never outlive
this process, however it ends: see `bound`. Each is in a session of its own, so that Ctrl-C reaches
this process alone and the order of the end is ours.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.cli import bound

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 1.0
STEADY_S = 10.0
"""A child that lived this long gets the first pause again."""

BAD_SETTINGS = 2
LONGEST_TAIL = 2000

_log = structlog.get_logger()


@dataclass(frozen=True)
class Program:
    """What a child runs.

    Attributes:
        name: what operators call it: `envoy`.
        command: an absolute path and its arguments; never a secret.
        environment: the whole environment.
        log: the file it writes to; None where it writes to standard error.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None = None


class StartError(Exception):
    """A child ended before the suite was ready.

    Attributes:
        status: what this process should exit with.
    """

    def __init__(self, program: Program, status: int) -> None:
        """See the class."""
        said = "what it said stands above."
        if program.log is not None and program.log.exists():
            said = f"it said:\n{program.log.read_text(errors='replace')[-LONGEST_TAIL:]}"
        super().__init__(f"{program.name} {_ending(status)}; {said}")
        self.status = BAD_SETTINGS if status == BAD_SETTINGS else 1


class Child:
    """One child process that is kept running.

    Args:
        program: what it runs.
        changed: called when its process id changed.
    """

    def __init__(self, program: Program, changed: Callable[[], None]) -> None:
        """See the class."""
        self.program = program
        self.restarts = 0
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self, failed: Callable[[StartError], bool]) -> None:
        """Start it and keep it running.

        Args:
            failed: told of an end; returns whether that is the end of everything.
        """
        await self._spawn()
        self._watch = asyncio.create_task(self._keep(failed))

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and kill it when it has not within the grace."""
        self._stopping = True
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(grace_s):
                    await self._process.wait()
            except TimeoutError:
                _log.warning("killed, since it did not end", child=self.program.name)
                self.kill()
                await self._process.wait()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it now."""
        self._stopping = True
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _spawn(self) -> None:
        wrapper = [sys.executable, "-I", "-S", str(Path(bound.__file__)), str(os.getpid())]
        self._process = await asyncio.create_subprocess_exec(
            *wrapper,
            *self.program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=dict(self.program.environment),
            start_new_session=True,
        )
        self._changed()

    async def _keep(self, failed: Callable[[StartError], bool]) -> None:
        pause_s = FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while self._process is not None:
            began = clock()
            status = await self._process.wait()
            if self._stopping or failed(StartError(self.program, status)):
                return
            self._changed()
            pause_s = FIRST_PAUSE_S if clock() - began > STEADY_S else pause_s
            _log.warning("starting again", child=self.program.name, because=_ending(status))
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self.restarts += 1
            await self._spawn()


class Supervisor:
    """The children of this process, in the order in which they started.

    Args:
        changed: called when a process id changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        """See the class."""
        self.children: dict[str, Child] = {}
        self._changed = changed
        self._steady = False
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, program: Program) -> Child:
        """Start a child and keep it running."""
        child = Child(program, self._changed)
        self.children[program.name] = child
        await child.start(self._failed)
        return child

    async def failure(self) -> None:
        """Wait for a child that ends before `settle`, and raise why.

        Raises:
            StartError: it ended.
        """
        await asyncio.shield(self._failure)

    def settle(self) -> None:
        """Say that the start is over: from now on a child that ends is started again."""
        self._steady = True

    async def stop(self, name: str, grace_s: float) -> None:
        """End a child, if it was ever started."""
        if name in self.children:
            await self.children[name].stop(grace_s)

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a child a signal, unless the start is not over: it may not be ready for one."""
        if self._steady and name in self.children:
            self.children[name].signal(number)

    def kill(self) -> None:
        """End all of them now."""
        for child in self.children.values():
            child.kill()

    def _failed(self, error: StartError) -> bool:
        if self._steady:
            return False
        if not self._failure.done():
            self._failure.set_exception(error)
        return True


def _ending(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
