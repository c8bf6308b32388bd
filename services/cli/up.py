"""`weaver up`: the whole suite on this machine, until Ctrl-C."""

import asyncio
import os
import signal
import sys
from typing import Annotated

import typer
import uvloop

from services.cli import banner
from services.cli.programs import MissingToolError
from services.cli.rundir import BusyError
from services.cli.suite import NotReadyError, Suite
from services.cli.supervisor import StartError
from services.common.settings import SettingsError

FAILED = 1
BAD_SETTINGS = 2
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_TERMINAL = "/dev/tty"

app = typer.Typer()


@app.command("up")
def up(
    *,
    separate: Annotated[
        bool, typer.Option("--separate", help="Run each service as a process of its own.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say that it is ready in one line of JSON.")
    ] = False,
) -> None:
    """Run the whole suite here, as a development environment, until Ctrl-C.

    `kill -HUP` has it look at its signing keys at once. When its terminal is closed it ends.

    Exits with 0 after Ctrl-C, with 2 when a setting is bad or a port is taken, else with 1.
    """
    try:
        suite = Suite(separate=separate, say=_say)
        with suite.run.held():
            uvloop.run(_run(suite, as_json=as_json))
    except SettingsError as error:
        _fail(str(error), BAD_SETTINGS)
    except StartError as error:
        _fail(str(error), error.status)
    except (BusyError, MissingToolError, NotReadyError) as error:
        _fail(str(error), FAILED)


async def _run(suite: Suite, *, as_json: bool) -> None:
    stopped = asyncio.Event()

    def on_signal() -> None:
        if stopped.is_set():
            suite.kill()
            os._exit(INTERRUPTED)
        stopped.set()

    # Who ignores hang-ups for us (nohup) wants us to go on without a terminal.
    attached = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def on_hangup() -> None:
        if attached and not _has_terminal():
            on_signal()
        else:
            suite.reload()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    starting = asyncio.create_task(suite.start())
    waiting = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            text = banner.for_programs(suite) if as_json else banner.for_people(suite)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            await waiting
        _say("ending; once more to kill")
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        waiting.cancel()
        await suite.end()
    _say("ended")


def _has_terminal() -> bool:
    """Say whether there is a terminal that could be closed, and it is not."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _say(line: str) -> None:
    sys.stderr.write(f"weaver: {line}\n")
    sys.stderr.flush()


def _fail(message: str, status: int) -> None:
    _say(f"cannot start: {message}")
    raise typer.Exit(status)
