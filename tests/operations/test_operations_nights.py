"""Operators' nights: what breaks, the alert that fires, the documented action, and that it heals.

A real suite, a process for each service; a real Prometheus with the shipped rules, which looks each
second and does not wait for minutes before an alert fires.
"""

import contextlib
import datetime as dt
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from services.common.certificates import SERVICES, ensure
from services.common.settings import CommonSettings
from tests.e2e.conftest import RunningSuite, wait_until
from tests.fakes.prometheus import Prometheus
from tests.fakes.sentinel import MASTER, SENTINEL_PASSWORD, STORE_PASSWORD, Trio

Start = Callable[[str, Mapping[str, str]], RunningSuite]
PRELOAD = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
MOUNT, UMOUNT, DD = "/bin/mount", "/bin/umount", "/bin/dd"
OFTEN = {"WEAVER_RATELIMIT_RPS": "5000", "WEAVER_RATELIMIT_BURST": "10000"}


class Caller:
    """Somebody who goes on calling, and notes what they get."""

    def __init__(self, suite: RunningSuite) -> None:
        self._suite = suite
        self.replies: Counter[str] = Counter()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def once(self) -> str:
        """Call once and return the status."""
        suite = self._suite
        body = {"model": "stub-model", "messages": [{"role": "user", "content": "hello"}]}
        done = subprocess.run(
            [
                *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"),
                *("--cacert", str(suite.ca), "-H", f"authorization: Bearer {suite.api_key}"),
                *("-H", "content-type: application/json", "-d", json.dumps(body)),
                f"{suite.url}/v1/chat/completions",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def _run(self) -> None:
        while not self._ended.is_set():
            self.replies[self.once()] += 1

    def __enter__(self) -> Self:
        """Begin to call."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Call no more."""
        self._ended.set()
        self._thread.join()


def watched(suite: RunningSuite, place: Path, **more: str) -> Prometheus:
    targets = {f"weaver-{name}": address for name, address in suite.metrics.items() if address}
    return Prometheus(place / "prometheus", {**targets, **more})


def doctor(suite: RunningSuite, *only: str) -> tuple[int, str]:
    words = [word for name in only for word in ("--only", name)]
    environment = {
        k: v for k, v in suite.environment.items() if k not in {"LD_PRELOAD", "FAKETIME"}
    }
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_clock_that_is_off_is_told_and_mended(start_suite: Start, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+30s\n")
    suite = start_suite(
        "separate",
        {
            **OFTEN,
            "LD_PRELOAD": PRELOAD,
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )
    with watched(suite, tmp_path) as prometheus:
        prometheus.wait_for("ClockSkew")
        status, said = doctor(suite, "clocks")
        assert (status, "ahead of this machine" in said) == (1, True), said
        assert Caller(suite).once() == "200"
        clock.write_text("+0s\n")  # What `chronyc makestep` does.
        prometheus.wait_for("ClockSkew", firing=False)
    verified = suite.weaver("audit", "verify", "--no-remember", timeout=60)
    assert verified.returncode == 0, verified.stdout


def test_a_certificate_that_ends_is_told_and_renewed(start_suite: Start, tmp_path: Path) -> None:
    made = CommonSettings(state_dir=tmp_path / "good")
    ensure(made)
    tls = made.tls_path
    suite = start_suite("separate", {**OFTEN, "WEAVER_TLS_DIR": str(tls)})
    good = {name: (tls / f"{name}.pem").read_bytes() for name in SERVICES}
    ended = _ended_like(tls)
    with watched(suite, tmp_path) as prometheus:
        assert Caller(suite).once() == "200"
        (tls / "model.pem.new").write_bytes(ended)
        (tls / "model.pem.new").rename(tls / "model.pem")
        prometheus.wait_for("CertificateExpired")
        status, said = doctor(suite, "certificates")
        assert (status, "model.pem ended" in said) == (1, True), said
        (tls / "model.pem.new").write_bytes(good["model"])
        (tls / "model.pem.new").rename(tls / "model.pem")
        prometheus.wait_for("CertificateExpired", firing=False)
        wait_until(lambda: Caller(suite).once() == "200", 20)
    assert doctor(suite, "certificates")[0] == 0


def _ended_like(tls: Path) -> bytes:
    """Return a certificate of the same authority and key for the model service that has ended."""
    from cryptography import x509  # noqa: PLC0415 - one test alone
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415

    old = x509.load_pem_x509_certificate((tls / "model.pem").read_bytes())
    authority = serialization.load_pem_private_key((tls / "ca-key.pem").read_bytes(), None)
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=90))
        .not_valid_after(now - dt.timedelta(minutes=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    signed = builder.sign(authority, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 24 MiB of its own; mounting needs root."""
    place = tmp_path / "volume"
    place.mkdir()
    subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=24m", "weaver", str(place)], check=True)
    yield place
    subprocess.run([UMOUNT, "-l", str(place)], check=True)


def test_a_full_volume_is_told_and_enlarged(
    start_suite: Start, tmp_path: Path, small_volume: Path
) -> None:
    log = small_volume / "log"
    suite = start_suite("separate", {**OFTEN, "WEAVER_AUDIT_PATH": str(log)})
    with watched(suite, tmp_path) as prometheus:
        caller = Caller(suite)
        assert caller.once() == "200"
        filling = [DD, "if=/dev/zero", f"of={small_volume}/somebody's", "bs=4k"]
        assert subprocess.run(filling, check=False, stderr=subprocess.DEVNULL).returncode
        wait_until(lambda: caller.once() == "503", 30)
        prometheus.wait_for("AuditVolumeFull")
        prometheus.wait_for("AuditDiskRefuses")
        status, said = doctor(suite, "disk", "front door")
        assert (status, "audit.disk is down" in said) == (1, True), said
        subprocess.run([MOUNT, "-o", "remount,size=256m", str(small_volume)], check=True)
        wait_until(lambda: caller.once() == "200", 20)
        prometheus.wait_for("AuditVolumeFull", firing=False)
    verified = suite.weaver("audit", "verify", "--no-remember", timeout=60)
    assert verified.returncode == 0, verified.stdout


def test_a_collector_that_is_down_costs_no_call(start_suite: Start, tmp_path: Path) -> None:
    # Bound and not listening: nobody else gets these ports, and nobody answers there.
    held = [socket.socket() for _ in range(2)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    collector, metrics = (one.getsockname()[1] for one in held)
    suite = start_suite(
        "separate",
        {
            **OFTEN,
            "WEAVER_TELEMETRY_ENABLED": "true",
            "WEAVER_TELEMETRY_ENDPOINT": f"http://127.0.0.1:{collector}",
        },
    )
    up = {"otel-collector": f"127.0.0.1:{metrics}"}
    with watched(suite, tmp_path, **up) as prometheus:
        with Caller(suite) as caller:
            prometheus.wait_for("CollectorDown")
            time.sleep(2)
        assert set(caller.replies) == {"200"}
        assert "cannot be reached" in doctor(suite, "telemetry")[1]
        with contextlib.ExitStack() as stack:
            for one in held:
                _listen(one, stack)
            prometheus.wait_for("CollectorDown", firing=False)
            assert "can be reached" in doctor(suite, "telemetry")[1]


def _listen(held: socket.socket, stack: contextlib.ExitStack) -> None:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    place = held.getsockname()
    server = http.server.ThreadingHTTPServer(place, Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = held
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)


def test_a_store_whose_master_dies_fails_over_without_a_failed_call(
    start_suite: Start, tmp_path: Path
) -> None:
    place = tmp_path / "trio"
    place.mkdir()
    with Trio(place) as trio:
        suite = start_suite(
            "separate",
            {
                **OFTEN,
                "REDIS_SENTINELS": ",".join(f"127.0.0.1:{port}" for port in trio.sentinels),
                "REDIS_SENTINEL_MASTER": MASTER,
                "REDIS_SENTINEL_PASSWORD": SENTINEL_PASSWORD,
                "REDIS_PASSWORD": STORE_PASSWORD,
            },
        )
        with watched(suite, tmp_path) as prometheus, Caller(suite) as caller:
            wait_until(lambda: caller.replies["200"] > 5, 20)
            old = trio.master_now()
            trio.processes[old].kill()
            trio.processes[old].wait()
            wait_until(lambda: prometheus.has_fired("LimiterDegraded"), 30)
            prometheus.wait_for("LimiterDegraded", firing=False)
            before = caller.replies["200"]
            wait_until(lambda: caller.replies["200"] > before + 5, 20)
        assert set(caller.replies) == {"200"}
        assert trio.master_now() != old
        said = doctor(suite, "store")[1]
        assert "agrees, and there is a quorum" in said
        assert "1 replicas follow it" in said
