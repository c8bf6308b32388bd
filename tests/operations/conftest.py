"""A suite of a test's own."""

import contextlib
import random
import socket
from collections.abc import Callable, Iterator, Mapping

import pytest

from services.cli.ports import LISTEN_DEFAULTS
from tests.e2e.conftest import RunningSuite


def quiet_ports() -> dict[str, str]:
    """Return addresses below the ports that outgoing connections take for themselves."""
    chosen: dict[str, str] = {}
    for variable, default in LISTEN_DEFAULTS.items():
        while default and variable not in chosen:
            port = random.randrange(15_000, 32_000)  # noqa: S311 - no secret
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                chosen[variable] = f"127.0.0.1:{port}"
    return chosen


@pytest.fixture
def start_suite() -> Iterator[Callable[[str, Mapping[str, str]], RunningSuite]]:
    """Return a function that starts a suite: topology, environment."""
    with contextlib.ExitStack() as stack:

        def start(topology: str, environment: Mapping[str, str]) -> RunningSuite:
            running = RunningSuite(topology, {**quiet_ports(), **environment})
            stack.callback(running.stop)
            return running

        yield start
