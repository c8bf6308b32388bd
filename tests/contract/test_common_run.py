"""The life of a service's process, and metrics beside it."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.common import logs, run
from services.common.channel import call, open_channel
from services.common.errors import Unavailable
from services.common.metrics import serve_metrics
from services.common.server import Kind, Listener
from services.common.settings import CommonSettings, SettingsError
from tests.fakes.limits import ScriptedLimits, component
from tests.fakes.service import FakeSettings, build
from weaver.ratelimit.v1 import ratelimit_service_pb2 as pb
from weaver.ratelimit.v1 import ratelimit_service_pb2_grpc

Start = Callable[..., Awaitable["Service"]]
ROOT = Path(__file__).parents[2]


class Service:
    """The process of the miniature service."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def line(self, event: str) -> dict[str, Any]:
        """Return the next log line about an event."""
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            line: dict[str, Any] = json.loads(raw)
            self.lines.append(line)
            if line["event"] == event:
                return line
        pytest.fail(f"no line about {event}: {self.lines}")

    async def rest(self) -> list[dict[str, Any]]:
        assert self.process.stderr is not None
        return [json.loads(raw) async for raw in self.process.stderr]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Any]:
    processes: list[asyncio.subprocess.Process] = []

    async def start(**environment: str) -> Service:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.fakes.service"),
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
                "WEAVER_STATE_DIR": str(tmp_path),
                **environment,
            },
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return Service(process)

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_calls_in_flight_end_then_cleans_up(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    service = await start()
    address = (await service.line("listening"))["addresses"][0]
    settings = CommonSettings(state_dir=tmp_path)
    async with open_channel(address, settings, own="gateway", peer="ratelimit") as channel:
        stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        in_flight = asyncio.create_task(call(stub.Peek, pb.PeekRequest(), timeout_s=10))
        await asyncio.sleep(0.15)
        service.process.send_signal(number)
        assert (await service.line("draining"))["grace_s"] == 10
        await in_flight
    events = [line["event"] for line in await service.rest()]
    assert await asyncio.wait_for(service.process.wait(), 5) == 0
    assert events[-2:] == ["cleaned up", "stopped"]
    assert "rpc" in events


async def test_a_hangup_ends_no_service_that_has_nothing_to_reload(start: Start) -> None:
    service = await start()
    await service.line("listening")
    while not _handles(service.process.pid, signal.SIGHUP):
        await asyncio.sleep(0.01)
    service.process.send_signal(signal.SIGHUP)
    await service.line("told to reload: files are read again by themselves")
    service.process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(service.process.wait(), 15) == 0


def _handles(pid: int, number: signal.Signals) -> bool:
    """Return whether a process catches a signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


async def test_a_service_that_leaves_takes_calls_until_its_callers_could_look_around(
    start: Start, tmp_path: Path
) -> None:
    service = await start(WEAVER_DRAIN_NOTICE_SECONDS="1", WEAVER_DRAIN_SECONDS="1")
    address = (await service.line("listening"))["addresses"][0]
    settings = CommonSettings(state_dir=tmp_path)
    async with open_channel(address, settings, own="gateway", peer="ratelimit") as channel:
        stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
        await call(stub.Peek, pb.PeekRequest(), timeout_s=10)
        service.process.send_signal(signal.SIGTERM)
        assert (await service.line("draining"))["notice_s"] == 1
        await call(stub.Peek, pb.PeekRequest(), timeout_s=10)
    assert await asyncio.wait_for(service.process.wait(), 5) == 0


async def test_a_taken_port_ends_the_process_with_a_sentence(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = await start(WEAVER_RATELIMIT_LISTEN=address)
        assert service.process.stderr is not None
        text = (await service.process.stderr.read()).decode()
    assert await service.process.wait() == 2
    assert f"weaver: cannot start: WEAVER_RATELIMIT_LISTEN: cannot listen on {address}" in text
    assert "Traceback" not in text


async def test_a_bad_setting_ends_the_process_with_its_name(start: Start) -> None:
    service = await start(WEAVER_DRAIN_SECONDS="soon")
    assert service.process.stderr is not None
    text = (await service.process.stderr.read()).decode()
    assert await service.process.wait() == 2
    assert "WEAVER_DRAIN_SECONDS" in text
    assert "Traceback" not in text


def test_serve_runs_a_service_until_it_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    stopped: list[bool] = []

    async def told() -> None:
        stopped.append(True)

    monkeypatch.setattr(run, "until_stopped", told)
    run.serve(
        FakeSettings, build, listeners=lambda settings: [Listener(settings.listen, Kind.PUBLIC)]
    )
    assert stopped == [True]


def test_serve_ends_with_status_2_when_it_cannot_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEAVER_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("WEAVER_RATELIMIT_METRICS_LISTEN", "nonsense")
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        run.serve(FakeSettings, build)
    assert caught.value.code == 2
    assert "WEAVER_RATELIMIT_METRICS_LISTEN" in capsys.readouterr().err


async def test_a_signal_ends_the_wait_and_the_handlers_are_gone_after() -> None:
    waiting = asyncio.create_task(run.until_stopped())
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(waiting, 5)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_several_components_in_one_process_drain_together(tmp_path: Path) -> None:
    settings = FakeSettings(state_dir=tmp_path, metrics_listen="")
    async with AsyncExitStack() as stack:
        handles = [
            await run.host(component(ScriptedLimits(), name=name), settings, stack)
            for name in ("ratelimit", "model", "audit")
        ]
        assert len({handle.ports for handle in handles}) == 3
        for handle in handles:
            channel = open_channel(
                handle.addresses[0], settings, own="gateway", peer=handle.component.name
            )
            stack.push_async_callback(channel.close)
            stub = ratelimit_service_pb2_grpc.RateLimitServiceStub(channel)
            await call(stub.Peek, pb.PeekRequest(), timeout_s=5)
        await run.drain(handles, 1)
        assert not any(handle.component.health.serving for handle in handles)
        with pytest.raises(Unavailable):
            await call(stub.Peek, pb.PeekRequest(), timeout_s=5)


async def test_metrics_are_served_until_the_stack_closes() -> None:
    registry = CollectorRegistry()
    Counter("records", "Records.", registry=registry).inc(3)
    async with AsyncExitStack() as stack:
        port = serve_metrics(registry, "127.0.0.1:0", "WEAVER_X_METRICS_LISTEN", stack)
        url = f"http://127.0.0.1:{port}/metrics"

        def read() -> bytes:
            with urllib.request.urlopen(url) as response:
                body: bytes = response.read()
                return body

        assert b"records_total 3.0" in await asyncio.to_thread(read)
        with pytest.raises(SettingsError, match="WEAVER_X_METRICS_LISTEN"):
            serve_metrics(registry, f"127.0.0.1:{port}", "WEAVER_X_METRICS_LISTEN", stack)
    with pytest.raises(OSError, match=r"refused|reset"):
        await asyncio.to_thread(read)


async def test_no_address_serves_no_metrics() -> None:
    async with AsyncExitStack() as stack:
        assert serve_metrics(CollectorRegistry(), "", "X", stack) is None
