"""The suite as its users start it: `weaver up` on free ports, with a state directory of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from services.cli.ports import LISTEN_DEFAULTS

SERVICES = ("gateway", "ratelimit", "model", "audit")
OURS = ("WEAVER_", "REDIS_", "OTEL_", "ENVIRONMENT", "LOG_LEVEL")
READY_WITHIN_S = 60.0


class RunningSuite:
    """A suite in a process of its own.

    Attributes:
        topology: `up` or `separate`.
        url: the front door.
        ca: what clients must trust.
        api_key: the development key; empty when the environment brings its own.
        state_dir: keys, certificates, the audit log.
        addresses: `host:port` of each service, and of Envoy (`envoy`, `envoy.admin`).
        metrics: `host:port` of each service's metrics.
        process: `weaver up` itself.
        log: what it and its children wrote to standard error.
    """

    def __init__(self, topology: str, environment: Mapping[str, str]) -> None:
        self.topology = topology
        self._scratch = Path(tempfile.mkdtemp(prefix="wv-e2e-"))
        self.state_dir = self._scratch / "state"
        self.log = self._scratch / "log"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(OURS)},
            "WEAVER_STATE_DIR": str(self.state_dir),
            **listen_on_free_ports(),
            **environment,
        }
        self.ready = self._start()
        self.url: str = self.ready["url"]
        self.ca = Path(self.ready["ca"])
        self.api_key: str = self.ready["api_key"] or ""
        listening: dict[str, str] = self.ready["addresses"]
        self.addresses = {name: listening[f"WEAVER_{name.upper()}_LISTEN"] for name in SERVICES}
        self.addresses["envoy"] = listening["WEAVER_FRONT_LISTEN"]
        self.addresses["envoy.admin"] = listening["WEAVER_ENVOY_ADMIN_LISTEN"]
        self.metrics = {
            name: listening.get(f"WEAVER_{name.upper()}_METRICS_LISTEN", "") for name in SERVICES
        }

    @property
    def status(self) -> dict[str, Any]:
        """What the suite says of itself now."""
        loaded: dict[str, Any] = json.loads(Path(self.ready["status"]).read_text())
        return loaded

    @property
    def pids(self) -> dict[str, int]:
        """The process ids now, of those that run: each service, `envoy`, `valkey`."""
        pids: dict[str, int | None] = self.status["pids"]
        return {name: pid for name, pid in pids.items() if pid is not None}

    def weaver(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run another command of `weaver` in the suite's environment."""
        command = [sys.executable, "-m", "services.cli", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, **options
        )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to `weaver up`."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> None:
        """End it as Ctrl-C does, and remove what it wrote."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGINT)
                self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"weaver up did not end:\n{self.tail()}")
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def tail(self) -> str:
        """Return the last of what it wrote to standard error."""
        return self.log.read_text(errors="replace")[-6000:]

    def _start(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "services.cli", "up", "--json"]
        command += ["--separate"] if self.topology == "separate" else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        with self.process.stdout as output:
            line = output.readline()
        if not line:
            status = self.process.wait(10)
            said = self.tail()
            shutil.rmtree(self._scratch)
            pytest.fail(f"weaver up ended with status {status}:\n{said}")
        loaded: dict[str, Any] = json.loads(line)
        return loaded


def listen_on_free_ports() -> dict[str, str]:
    """Return each variable of an address with a port of its own that is free now."""
    with contextlib.ExitStack() as stack:
        chosen = {}
        for variable, default in LISTEN_DEFAULTS.items():
            if default:
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                chosen[variable] = f"127.0.0.1:{probe.getsockname()[1]}"
        return chosen


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for a condition, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@dataclass(frozen=True)
class Deployed:
    """A suite that runs elsewhere, as the environment names it: tests that share one try it.

    Attributes:
        url: the front door (`WEAVER_E2E_URL`).
        ca: what clients must trust (`WEAVER_E2E_CA`).
        api_key: a key or token (`WEAVER_E2E_API_KEY`).
    """

    url: str
    ca: Path
    api_key: str


def deployed() -> Deployed | None:
    """Return the suite that the environment names; None where tests start their own."""
    url, told = os.environ.get("WEAVER_E2E_URL"), os.environ
    if not url:
        return None
    return Deployed(url, Path(told["WEAVER_E2E_CA"]), told["WEAVER_E2E_API_KEY"])


@pytest.fixture(scope="session", params=["up", "separate"] if deployed() is None else ["deployed"])
def topology(request: pytest.FixtureRequest) -> str:
    """How the services are spread over processes; every test runs with both."""
    return str(request.param)


@pytest.fixture(scope="session")
def suite(topology: str) -> Iterator[RunningSuite | Deployed]:
    """A suite that tests share; its limits are out of their way."""
    if (elsewhere := deployed()) is not None:
        yield elsewhere
        return
    running = RunningSuite(
        topology, {"WEAVER_RATELIMIT_RPS": "5000", "WEAVER_RATELIMIT_BURST": "10000"}
    )
    yield running
    running.stop()


@pytest.fixture
def start_suite() -> Iterator[Callable[[str, Mapping[str, str]], RunningSuite]]:
    """Return a function that starts a suite of the test's own: topology, environment."""
    with contextlib.ExitStack() as stack:

        def start(topology: str, environment: Mapping[str, str]) -> RunningSuite:
            running = RunningSuite(topology, environment)
            stack.callback(running.stop)
            return running

        yield start


@pytest.fixture
def suite_env() -> dict[str, str]:
    """What `own_suite` is started with; parametrise it."""
    return {}


@pytest.fixture
def own_suite(
    topology: str,
    suite_env: dict[str, str],
    start_suite: Callable[[str, Mapping[str, str]], RunningSuite],
) -> RunningSuite:
    """A suite of the test's own, with `suite_env`."""
    return start_suite(topology, suite_env)
