"""One writer for a log: the lock, what it says, and what it is not deceived by."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.audit.layout import Layout, LayoutError
from services.common.settings import SettingsError
from tests.fakes.auditlog import record, running_log

HOLDER = """
import sys, time
from pathlib import Path
from services.audit.layout import Layout
layout = Layout(Path(sys.argv[1]))
layout.create()
layout.acquire()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "audit" / "log")
    layout.create()
    return layout


def test_a_second_writer_is_refused_and_told_who_the_first_is(layout: Layout) -> None:
    held = layout.acquire()
    with pytest.raises(LayoutError, match=rf"another process \(pid {os.getpid()}\) writes"):
        layout.acquire()
    os.close(held)
    os.close(layout.acquire())


def test_a_killed_writer_leaves_no_lock_behind(layout: Layout) -> None:
    command = [sys.executable, "-c", HOLDER, str(layout.log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LayoutError, match=rf"pid {process.pid}\)"):
            layout.acquire()
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(layout.acquire())


def test_a_writer_in_another_container_is_named_with_its_host(layout: Layout) -> None:
    held = layout.acquire()
    os.pwrite(held, f"1\npod-7f9c\n{layout.lock}\n".encode(), 0)
    with pytest.raises(LayoutError, match=r"pid 1 on pod-7f9c\) writes"):
        layout.acquire()
    os.close(held)


def test_what_the_lock_says_of_a_dead_process_does_not_matter(layout: Layout) -> None:
    layout.lock.write_text(f"{os.getpid()}\nsomewhere\n/gone/lock\n")
    os.close(layout.acquire())
    layout.lock.write_bytes(b"\xff\x00garbage")
    os.close(layout.acquire())


def test_a_refused_start_touches_nothing_of_the_writers(layout: Layout) -> None:
    held = layout.acquire()
    draft = layout.scratch / "file"
    draft.write_bytes(b"being written")
    again = Layout(layout.log)
    again.create()
    with pytest.raises(LayoutError):
        again.acquire()
    assert draft.read_bytes() == b"being written"
    os.close(held)
    os.close(layout.acquire())
    assert not draft.exists()


def test_a_lock_that_cannot_be_had_is_not_kept_open(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(OSError, match="No space"):
            layout.acquire()
    os.close(layout.acquire())


async def test_a_copy_of_a_log_that_is_still_written_is_refused(tmp_path: Path) -> None:
    original, copy = tmp_path / "one", tmp_path / "two"
    async with running_log(original) as running:
        await running.append([record(1)])
        shutil.copytree(original, copy)
        with pytest.raises(SettingsError, match=r"is a copy of a log that a process .* writes"):
            async with running_log(copy):
                pass
    async with running_log(copy) as running:
        assert await running.append([record(1)]) == [3]


async def test_a_log_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    async with running_log(tmp_path / "one") as running:
        await running.append([record(1)])
    (tmp_path / "one").rename(tmp_path / "two")
    async with running_log(tmp_path / "two") as running:
        assert await running.append([record(1)]) == [3]
