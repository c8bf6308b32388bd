"""`weaver up` with several gateway processes: all answer, one may die, every call is recorded."""

import contextlib
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.cli.ports import LISTEN_DEFAULTS, PORTS_APART
from tests.e2e.conftest import RunningSuite, wait_until

Start = Callable[[str, Mapping[str, str]], RunningSuite]
CALLS = 60
GATEWAYS = ("gateway", "gateway-2")


def metrics_ports() -> dict[str, str]:
    """Return addresses for metrics whose neighbours so far on are free as well."""
    chosen: dict[str, str] = {}
    for variable in (
        name
        for name, default in LISTEN_DEFAULTS.items()
        if default and name.endswith("METRICS_LISTEN")
    ):
        for _ in range(100):
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
                first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                port = first.getsockname()[1]
                stack.enter_context(socket.create_server(("127.0.0.1", port + PORTS_APART)))
                chosen[variable] = f"127.0.0.1:{port}"
                break
    return chosen


@pytest.fixture(params=["up", "separate"])
def workers(request: pytest.FixtureRequest, start_suite: Start) -> RunningSuite:
    """A suite with two gateways, whose limits are out of the way."""
    chosen = metrics_ports()
    environment = {
        **chosen,
        "WEAVER_GATEWAY_WORKERS": "2",
        "WEAVER_RATELIMIT_RPS": "5000",
        "WEAVER_RATELIMIT_BURST": "10000",
    }
    return start_suite(str(request.param), environment)


def ask(client: httpx.Client, suite: RunningSuite) -> int:
    """Ask for an answer and return the status."""
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"authorization": f"Bearer {suite.api_key}"}
    return client.post(f"{suite.url}/v1/chat/completions", json=body, headers=headers).status_code


def answered(suite: RunningSuite, gateway: str) -> float:
    """Return how many completions a gateway says that it answered."""
    name = "WEAVER_GATEWAY_METRICS_LISTEN" + ("" if gateway == "gateway" else f" of {gateway}")
    text = httpx.get(f"http://{suite.status['addresses'][name]}/metrics").text
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("http_requests_total{") and "chat/completions" in line
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_calls_are_spread_over_all_gateways_and_each_is_recorded(workers: RunningSuite) -> None:
    with (
        httpx.Client(verify=ssl.create_default_context(cafile=workers.ca)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        statuses = list(pool.map(lambda _: ask(client, workers), range(CALLS)))
        assert statuses == [httpx.codes.OK] * CALLS
        assert sum(answered(workers, name) for name in GATEWAYS) == CALLS
        # Envoy looks once a second who is well.
        wait_until(
            lambda: (
                ask(client, workers) == httpx.codes.OK
                and all(answered(workers, name) for name in GATEWAYS)
            )
        )
    verdict = workers.weaver("audit", "verify", str(workers.state_dir / "audit" / "log"), "--json")
    assert verdict.returncode == 0, verdict.stdout


def test_a_gateway_that_dies_is_started_again_and_the_others_answer(workers: RunningSuite) -> None:
    before = workers.pids["gateway-2"]
    with httpx.Client(verify=ssl.create_default_context(cafile=workers.ca)) as client:
        assert ask(client, workers) == httpx.codes.OK
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: workers.pids.get("gateway-2") != before)
        end = time.monotonic() + 3
        statuses = []
        while time.monotonic() < end:
            statuses.append(ask(client, workers))
            time.sleep(0.02)
        # No call was under way where it died, so none may fail.
        assert set(statuses) == {httpx.codes.OK}
        wait_until(lambda: workers.pids.get("gateway-2", before) != before)
        already = answered_soon(workers)
        wait_until(lambda: ask(client, workers) == 200 and answered(workers, "gateway-2") > already)


def answered_soon(suite: RunningSuite) -> float:
    """Return what the second gateway answered, once it tells."""
    counts: list[float] = []

    def told() -> bool:
        with contextlib.suppress(httpx.TransportError):
            counts.append(answered(suite, "gateway-2"))
        return bool(counts)

    wait_until(told)
    return counts[-1]


def test_nothing_is_left_behind(workers: RunningSuite) -> None:
    pids = workers.pids
    workers.signal(signal.SIGTERM)
    assert workers.wait() == 0
    for pid in pids.values():
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert [path.name for path in (workers.state_dir / "run").iterdir()] == ["lock"]
