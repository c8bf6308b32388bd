"""`weaver doctor` on a deployment that runs, is harmed in one place after the other, is gone."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from services.cli.backup.snapshot import Session
from services.cli.doctor.checklist import ITEMS
from services.common.valkey import Address
from tests.e2e.conftest import RunningSuite, wait_until


@pytest.fixture(scope="module")
def patient() -> Iterator[RunningSuite]:
    running = RunningSuite("up", {})
    yield running
    running.stop()


def examined(suite: RunningSuite, *only: str, expect: int | None = None) -> list[dict[str, Any]]:
    arguments = [word for name in only for word in ("--only", name)]
    done = suite.weaver("doctor", "--json", *arguments, timeout=60)
    assert done.stdout, done.stderr
    if expect is not None:
        assert done.returncode == expect, done.stdout
    found: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return found


def states(found: list[dict[str, Any]]) -> set[str]:
    return {finding["state"] for finding in found}


def bad(found: list[dict[str, Any]]) -> str:
    return "; ".join(finding["what"] for finding in found if finding["state"] == "bad")


def test_a_healthy_deployment_owes_its_backups_alone(patient: RunningSuite) -> None:
    found = examined(patient, expect=0)
    assert not bad(found)
    assert {finding["check"] for finding in found if finding["state"] == "note"} == {"backups"}
    assert not [finding for finding in found if finding["state"] == "unknown"]
    assert len({finding["check"] for finding in found}) >= 10
    for finding in found:
        assert finding["state"] == "good" or finding["act"]


def test_it_answers_each_line_of_the_checklist(patient: RunningSuite) -> None:
    done = patient.weaver("doctor", "--production", "--json", timeout=60)
    found = json.loads(done.stdout)["findings"]
    assert "backups" in {finding["check"] for finding in found if finding["state"] == "bad"}
    answers = json.loads(done.stdout)["checklist"]
    assert [answer["check"] for answer in answers] == list(ITEMS)
    told = dict(zip(ITEMS, (answer["state"] for answer in answers), strict=True))
    assert told[ITEMS[0]] == told[ITEMS[1]] == told[ITEMS[3]] == told[ITEMS[5]] == "good"
    assert told["Backup procedure tested"] == "bad"
    assert done.returncode == 1


def test_a_key_that_others_can_read_is_found(patient: RunningSuite) -> None:
    key = patient.state_dir / "keys" / "telemetry_signing_key.pem"
    key.chmod(0o644)
    try:
        assert "can be read by everybody" in bad(examined(patient, "keys", expect=1))
    finally:
        key.chmod(0o600)
    assert states(examined(patient, "keys", expect=0)) == {"good"}


def test_a_store_that_may_forget_is_found(patient: RunningSuite) -> None:
    store = Session(Address(unix_socket=patient.state_dir / "run" / "valkey.sock"), 5.0)
    store.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    store.ask("CONFIG", "SET", "appendonly", "no")
    try:
        found = bad(examined(patient, "store", expect=1))
        assert "allkeys-lru" in found
        assert "append-only" in found
    finally:
        store.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        store.ask("CONFIG", "SET", "appendonly", "yes")
        store.close()
    assert states(examined(patient, "store", expect=0)) == {"good"}


def test_a_log_that_was_changed_is_found(patient: RunningSuite) -> None:
    bundles = (patient.state_dir / "audit" / "log" / "tile" / "entries" / "000.p").iterdir()
    entries = max(bundles, key=lambda path: int(path.name))
    data = entries.read_bytes()
    entries.write_bytes(data[:-2] + b"~" + data[-1:])
    try:
        assert "DAMAGED" in bad(examined(patient, "log", expect=1))
    finally:
        entries.write_bytes(data)


def test_a_certificate_that_is_not_the_served_one_is_found(patient: RunningSuite) -> None:
    place = patient.state_dir / "tls" / "model-key.pem"
    key = place.read_bytes()
    place.write_bytes((patient.state_dir / "tls" / "audit-key.pem").read_bytes())
    try:
        assert "does not belong to model.pem" in bad(examined(patient, "certificates", expect=1))
    finally:
        place.write_bytes(key)


def test_a_setting_that_production_refuses_is_named(patient: RunningSuite) -> None:
    done = patient.weaver("doctor", "--production", "--only", "settings", "--json", timeout=60)
    assert "WEAVER_TLS_DIR" in bad(json.loads(done.stdout)["findings"])


def test_in_a_pipe_it_speaks_plainly(patient: RunningSuite) -> None:
    done = patient.weaver("doctor", "--only", "store", timeout=60)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("all is good")
    wrong = patient.weaver("doctor", "--only", "moon", timeout=60)
    assert (wrong.returncode, "'moon' is none of" in wrong.stderr) == (2, True)


def test_a_deployment_that_is_down_is_said_to_be(
    start_suite: Callable[[str, Mapping[str, str]], RunningSuite],
) -> None:
    suite = start_suite("up", {})
    suite.signal(signal.SIGINT)
    suite.wait()
    found = examined(suite, "front door", "store", expect=1)
    assert "does not answer" in bad(found)
    assert states(examined(suite, "services", expect=2)) == {"unknown"}


def test_what_only_administrators_are_told_is_found(
    start_suite: Callable[[str, Mapping[str, str]], RunningSuite],
) -> None:
    """As in production: /health names the parts alone."""
    suite = start_suite("up", {"WEAVER_HEALTH_DETAILS": "administrators"})
    assert states(examined(suite, "front door", expect=0)) == {"good"}
    key = suite.state_dir / "keys" / "telemetry_signing_key.pem"
    key.write_bytes(key.read_bytes()[:500])
    wait_until(lambda: "audit.key_rotation is down" in bad(examined(suite, "front door")), 40)
    stranger = {**suite.environment, "WEAVER_API_KEY": suite.api_key}
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", "--json", "--only", "front door"],
        env=stranger,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "of one, for /v1/health" in done.stdout
