"""Children are kept running, end in order, and never outlive their parent."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from services.cli import supervisor
from services.cli.supervisor import Program, StartError, Supervisor
from tests.fakes.waiting import eventually

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


def program(
    name: str = "child", command: list[str] | None = None, log: Path | None = None
) -> Program:
    return Program(name, command or SLEEP, {"PATH": os.environ["PATH"]}, log)


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_a_child_that_dies_is_started_again() -> None:
    changes: list[int | None] = []
    children = Supervisor(lambda: changes.append(children.children["child"].pid))
    child = await children.start(program())
    children.settle()
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: child.pid not in {None, first})
    assert child.restarts == 1
    assert changes == [first, None, child.pid]
    await child.stop(5)
    assert child.pid is None


async def test_restarts_back_off_up_to_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_S", 0.08)
    starts: list[float] = []
    children = Supervisor(lambda: starts.append(time.monotonic()))
    children.settle()
    child = await children.start(program(command=["/bin/false"]))
    await eventually(lambda: child.restarts >= 4)
    await child.stop(5)
    assert child.restarts < 20


async def test_an_end_during_the_start_is_a_failure_with_the_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the disk is full\n")
    children = Supervisor(lambda: None)
    await children.start(program("valkey", python("raise SystemExit(3)"), log))
    with pytest.raises(
        StartError, match=r"valkey ended with status 3; it said:\nthe disk is full"
    ) as caught:
        await asyncio.wait_for(children.failure(), 5)
    assert caught.value.status == 1


async def test_bad_settings_of_a_child_are_bad_settings_of_the_suite() -> None:
    children = Supervisor(lambda: None)
    await children.start(program("audit", python("raise SystemExit(2)")))
    with pytest.raises(StartError) as caught:
        await asyncio.wait_for(children.failure(), 5)
    assert caught.value.status == 2


async def test_a_signal_is_named() -> None:
    error = StartError(program("envoy"), -signal.SIGKILL)
    assert str(error).startswith("envoy was ended by SIGKILL")


async def test_a_child_that_does_not_end_is_killed_after_its_grace(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = "import signal, time; signal.signal(15, lambda *a: 0); "
    code += f"open({str(ready)!r}, 'w'); time.sleep(60)"
    children = Supervisor(lambda: None)
    child = await children.start(program(command=python(code)))
    await eventually(ready.exists)
    pid = child.pid
    assert pid is not None
    started = time.monotonic()
    await children.stop("child", 0.2)
    assert 0.2 <= time.monotonic() - started < 2
    assert not is_running(pid)
    await children.stop("never started", 1)


async def test_killing_ends_all_at_once() -> None:
    children = Supervisor(lambda: None)
    started = [await children.start(program(name)) for name in ("a", "b")]
    pids = [child.pid for child in started if child.pid is not None]
    children.kill()
    await eventually(lambda: not any(map(is_running, pids)))
    for child in started:
        await child.stop(1)


def test_children_die_with_a_parent_that_is_killed() -> None:
    code = textwrap.dedent(f"""
        import asyncio
        from services.cli.supervisor import Program, Supervisor

        async def main():
            children = Supervisor(lambda: None)
            child = await children.start(Program("child", {SLEEP!r}, {{}}))
            print(child.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        end = time.monotonic() + 5
        while b"time.sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"-c")[-1]:
            assert time.monotonic() < end
        time.sleep(0.1)
        parent.kill()
    end = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < end, "the child lives on"
        time.sleep(0.01)
