"""A disk that is full, read-only or failing for a while: refused clearly, and recovered from."""

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from tests.faults import workload
from tests.faults.aftermath import check, heard
from tests.faults.processes import Fork, traced
from tests.faults.workload import Client

SMALL = list(range(1, 6))
LARGE = list(range(6, 70))
LAST = [70]
BATCHES = [SMALL, LARGE, LAST]
ERRORS = ["EIO", "ENOSPC", "EDQUOT", "EROFS"]
CHANGES = "pwrite64,fdatasync,fsync,rename,mkdir,unlink,ftruncate"
MEBIBYTE = 1 << 20
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000
PRIVATE = 0x40000 | 0x4000


@contextlib.asynccontextmanager
async def refusing(client: Client) -> AsyncIterator[None]:
    """Hold the log to what it owes while its disk refuses, and once it no longer does."""
    health = client.running.component.health
    first = await client.append(SMALL)
    waiting = asyncio.create_task(client.append(LARGE))
    async with asyncio.timeout(10):
        while health.serving:
            await asyncio.sleep(workload.RETRY_S)
    detail = health.snapshot()["disk"]
    assert detail[0] is False
    assert detail[1].startswith("the disk refuses")
    assert not waiting.done()
    yield
    await waiting
    async with asyncio.timeout(10):
        while not health.serving:
            await asyncio.sleep(workload.RETRY_S)
    assert await client.append(SMALL) == first
    await client.append_and_wait(LAST)


async def with_short_writes(client: Client) -> None:
    """Let files grow no further, so that a write stops in the middle of a frame."""
    await client.append_and_wait(SMALL)
    (segment,) = (client.running.log.parent / "log.private" / "wal").iterdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segment.stat().st_size + 100, before[1]))
    async with refusing(client):
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def with_a_full_disk(client: Client) -> None:
    """Fill the file system to the last byte."""
    await client.append_and_wait(SMALL)
    ballast = client.running.log.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MEBIBYTE, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    async with refusing(client):
        ballast.unlink()


async def through_an_outage(client: Client) -> None:
    """Append while every change of the disk fails for a while."""
    await client.append_and_wait(SMALL)
    for batch in (LARGE, LAST):
        await client.append_and_wait(batch)
    for number in range(71, 91):
        await client.append([number])


def test_a_write_that_stops_half_way_never_counts(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    status, lines, errors = Fork(
        lambda pipe: workload.run(state, with_short_writes, workload.writer(pipe))
    ).wait()
    assert status == 0, errors
    said = heard(lines)
    assert {line.refused for line in said} - {""} == {"AUDIT_UNAVAILABLE"}
    check(state, BATCHES, said)


def test_a_full_disk_is_refused_and_recovered_from(
    tmp_path: Path, not_run: Callable[[str], None]
) -> None:
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()

    def work(pipe: int) -> None:
        if not mount(small):
            os.write(pipe, b"{}\n")
            return
        workload.run(small, with_a_full_disk, workload.writer(pipe))
        shutil.copytree(small, kept)

    status, lines, errors = Fork(work).wait()
    assert status == 0, errors
    if lines == [b"{}"]:
        not_run("a full tmpfs: mounting one needs root or user namespaces")
        return
    said = heard(lines)
    assert {line.refused for line in said} - {""} == {"AUDIT_UNAVAILABLE"}
    check(kept, BATCHES, said)


@pytest.mark.parametrize("error", ERRORS)
def test_a_disk_that_refuses_every_change_for_a_while_loses_nothing(
    tmp_path: Path, error: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    status, lines, errors = traced(
        partial(outage, state),
        [
            *("-e", f"trace={CHANGES}"),
            *("-e", f"inject={CHANGES}:error={error}:when=12..24"),
        ],
        tmp_path / "trace",
    )
    assert status == 0, errors
    said = heard(lines)
    assert "AUDIT_UNAVAILABLE" in {line.refused for line in said}
    batches = [SMALL, LARGE, LAST, *([number] for number in range(71, 91))]
    check(state, batches, said)


def outage(state: Path, pipe: int) -> None:
    """Run the script that an outage hits; a start that is refused is tried again."""
    workload.run(state, through_an_outage, workload.writer(pipe), starts=300)


def mount(place: Path) -> bool:
    """Mount a small file system that only this process sees; say whether that is allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS) and libc.unshare(NEW_USER | NEW_MOUNTS):
        return False
    libc.mount(None, b"/", None, PRIVATE, None)
    return bool(libc.mount(b"tmpfs", bytes(place), b"tmpfs", 0, b"size=3m") == 0)
