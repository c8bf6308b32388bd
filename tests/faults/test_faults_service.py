"""The service as it is deployed, killed again and again under load over mutual TLS."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.audit.index import Filter
from services.audit.record import summarise
from services.audit.verification.offline import OfflineLog
from services.common.channel import call, open_channel
from services.common.errors import WeaverError
from services.common.settings import CommonSettings
from tests.fakes.auditlog import quick_keys, record
from weaver.audit.v1 import audit_service_pb2 as pb
from weaver.audit.v1 import audit_service_pb2_grpc

CLIENTS = 8
BATCHES = 60
SIZE = 20
KILLED_AT = (9, 25, 60)
SEGMENTS = 30
READY_S = 60.0
STRACE = shutil.which("strace") or "strace"


@contextlib.contextmanager
def service(state: Path, address: str, kill_at: int | None) -> Iterator[subprocess.Popen[bytes]]:
    """Run the audit service, killed when it synchronises its write-ahead log for the n-th time."""
    rsa, ed25519 = quick_keys()
    environment = {
        **os.environ,
        "WEAVER_STATE_DIR": str(state),
        "WEAVER_AUDIT_LISTEN": address,
        "WEAVER_AUDIT_METRICS_LISTEN": "",
        "WEAVER_TELEMETRY_SIGNING_KEY": rsa,
        "WEAVER_AUDIT_ED25519_KEY": ed25519,
    }
    command = [sys.executable, "-m", "services.cli", "serve", "audit"]
    if kill_at is not None:
        wal = state.resolve() / "audit" / "log.private" / "wal"
        paths = [part for i in range(1, SEGMENTS) for part in ("-P", str(wal / f"{i:012d}.wal"))]
        fault = f"inject=fdatasync:signal=SIGKILL:when={kill_at}"
        options = ["-f", "-o", str(state / "trace"), "-e", "trace=fdatasync"]
        command = [STRACE, *options, "-e", fault, *paths, *command]
    with (state / "said").open("ab") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


async def client(name: str, stub: Any, places: dict[tuple[str, int], int]) -> None:
    """Append batch after batch, each as often as it takes."""
    instance = f"gateway-{name}"
    for first in range(1, BATCHES * SIZE, SIZE):
        batch = [record(i, instance=instance) for i in range(first, first + SIZE)]
        request = pb.AppendRecordsRequest(records=batch)
        while True:
            try:
                response = await call(stub.AppendRecords, request, timeout_s=2)
            except WeaverError:
                await asyncio.sleep(0.05)
            else:
                break
        for sequence, index in enumerate(response.indexes, first):
            assert places.setdefault((instance, sequence), index) == index


async def load(state: Path, address: str, places: dict[tuple[str, int], int]) -> None:
    settings = CommonSettings(state_dir=state)
    async with (
        asyncio.timeout(100),
        contextlib.AsyncExitStack() as stack,
        asyncio.TaskGroup() as all_,
    ):
        for number in range(CLIENTS):
            channel = open_channel(address, settings, own="gateway", peer="audit")
            stack.push_async_callback(channel.close)
            stub: Any = audit_service_pb2_grpc.AuditServiceStub(channel)
            all_.create_task(client(str(number), stub, places))


async def test_a_service_that_is_killed_again_and_again_answers_its_clients_the_same(
    tmp_path: Path,
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    places: dict[tuple[str, int], int] = {}
    loading = asyncio.create_task(load(tmp_path, address, places))
    try:
        for kill_at in KILLED_AT:
            with service(tmp_path, address, kill_at) as process:
                status = await asyncio.to_thread(process.wait, READY_S)
            assert status == -9, (tmp_path / "said").read_text()[-3000:]
        with service(tmp_path, address, None) as process:
            await loading
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
    finally:
        loading.cancel()
    assert len(places) == CLIENTS * BATCHES * SIZE
    assert_whole(tmp_path, places)


def assert_whole(state: Path, places: dict[tuple[str, int], int]) -> None:
    """Hold the log to what the clients were told."""
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "audit", "verify", "--json"],
        env={**os.environ, "WEAVER_STATE_DIR": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["good"], report["findings"]
    assert done.returncode == 0
    found: dict[tuple[str, int], int] = {}
    for index, entry in OfflineLog(state / "audit" / "log").find(Filter(), ascending=True):
        record_id = summarise(entry).id
        if record_id.instance.startswith("gateway-"):
            assert found.setdefault((record_id.instance, record_id.sequence), index) == index
    assert found == places
