"""A roll-out of each service under load: two replicas of each, replaced one after the other."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.load import Load
from tests.fakes.replicas import KEY, SERVICES, Replicas

LATE_S = 4.0
"""How late names are; in a cluster, half a minute (`minReadySeconds`)."""
ENVIRONMENT = {
    "WEAVER_DRAIN_NOTICE_SECONDS": "3",
    "WEAVER_DRAIN_SECONDS": "10",
    "WEAVER_CONNECTION_AGE_SECONDS": "60",
    "WEAVER_AUDIT_TIMEOUT_MS": "20000",
}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def replicas() -> Iterator[Replicas]:
    with (
        tempfile.TemporaryDirectory(prefix="wv-roll-") as place,
        Replicas(Path(place), LATE_S, ENVIRONMENT) as running,
    ):
        yield running


@pytest.mark.parametrize("service", SERVICES)
def test_a_rolling_restart_under_load_fails_no_call(replicas: Replicas, service: str) -> None:
    with Load(replicas.url, replicas.ca, KEY, callers=4) as load:
        for number in range(2):
            replicas.replace(service, number)
    assert not load.failed, (load.failed, load.bodies[:3])
    assert load.succeeded > 50


def test_after_it_each_log_is_whole(replicas: Replicas) -> None:
    for number in range(2):
        place = str(replicas.log(number))
        done = replicas.weaver("audit", "verify", "--no-remember", "--json", place)
        assert done.returncode == 0, done.stdout + done.stderr
        said = json.loads(done.stdout)
        assert (said["good"], said["completeness"], said["interrupted_count"]) == (True, True, 0)
        assert said["records"] > 100
