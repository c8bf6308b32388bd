"""What `/health` tells strangers, probes and administrators."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from services.common.errors import NotFound, Unavailable
from services.gateway.admission import Capacity, Door
from services.gateway.dependencies import Dependencies
from services.gateway.events import Event, EventType
from services.gateway.health import HealthReport
from services.gateway.principal import Principal
from services.gateway.recorder import Recorder
from services.gateway.settings import GatewaySettings
from tests.fakes.gateway import FakeLog, FakeObserver, StillClock

PARTS = {"": True, "provider:openai": True}


class Neighbour:
    """A neighbour that says what a test tells it to."""

    def __init__(self) -> None:
        self.parts: Mapping[str, bool] = dict(PARTS)

    async def states(self) -> Mapping[str, bool]:
        return self.parts


class Changes:
    """Nobody who listens."""

    def changed(self, name: str, *, up: bool) -> None:
        """Take no note."""


class Process:
    """A process that may be on its way out."""

    draining = False


class Scene:
    """A report over a neighbour, a door and a process."""

    def __init__(self, *, public_details: bool = False) -> None:
        clock = StillClock()
        self.model, self.process = Neighbour(), Process()
        self.door = Door(Capacity(calls=1), clock)
        self.dependencies = Dependencies({"model": self.model}, Changes(), clock)
        self.log = FakeLog()
        self.recorder = Recorder(
            self.log, FakeObserver(), instance="g", clock=clock, patience_s=0.0
        )
        self.report = HealthReport(
            self.dependencies,
            self.recorder,
            lambda: {"audit_on_failure": "allow"},
            self.process,
            self.door,
            public_details=public_details,
        )

    async def ask(self, probe: str = "") -> tuple[dict[str, Any], bool]:
        await self.dependencies.look()
        body, good = self.report.probe(probe)
        return json.loads(body), good


async def test_strangers_learn_which_part_is_at_fault_and_nothing_below_it() -> None:
    scene = Scene()
    scene.model.parts = {"": True, "provider:openai": False}
    body, good = await scene.ask()
    assert good
    assert body == {
        "status": "degraded",
        "live": True,
        "ready": True,
        "load": "ok",
        "dependencies": {"model": "ok"},
    }


async def test_administrators_learn_everything() -> None:
    scene = Scene()
    await scene.ask()
    body = json.loads(scene.report.body())
    assert body["dependencies"] == {"model": "ok", "model.provider:openai": "ok"}
    assert body["policies"] == {"audit_on_failure": "allow"}
    assert body["requests"] == {"in_flight": 0, "in_front": 0, "in_front_limit": 1}


async def test_strangers_learn_everything_where_the_deployment_says_so() -> None:
    body, _ = await Scene(public_details=True).ask()
    assert "model.provider:openai" in body["dependencies"]


async def test_live_and_ready_are_apart() -> None:
    scene = Scene()
    assert await scene.ask("ready") == ({"status": "ok", "ready": True}, True)
    scene.model.parts = {"": False}
    assert await scene.ask("live") == ({"status": "ok", "live": True}, True)
    assert await scene.ask("ready") == ({"status": "unavailable", "ready": False}, False)
    assert (await scene.ask())[1] is False


async def test_who_drains_is_live_and_not_ready() -> None:
    scene = Scene()
    scene.process.draining = True
    assert (await scene.ask("live"))[1] is True
    assert (await scene.ask("ready"))[1] is False


async def test_shedding_is_degraded_and_ready() -> None:
    scene = Scene()
    scene.door.enter(Principal("t", "apikey", "a"), 0)
    with pytest.raises(Unavailable):
        scene.door.enter(Principal("t", "apikey", "b"), 0)
    body, good = await scene.ask()
    assert (body["status"], body["load"], body["ready"], good) == (
        "degraded",
        "shedding",
        True,
        True,
    )


async def test_the_error_names_no_more_than_the_report() -> None:
    scene = Scene()
    scene.model.parts = {"": False, "provider:openai": False}
    await scene.ask()
    assert scene.report.error().message == "Not ready: model."


async def test_a_log_that_takes_nothing_is_down_whatever_the_service_says() -> None:
    scene = Scene()
    scene.log.errors += [Unavailable("away")] * 3
    scene.recorder.submit(Event(EventType.SERVICE_STARTED, 0.0))
    while scene.recorder.stall is None:
        await asyncio.sleep(0)
    body, good = await scene.ask()
    assert (body["dependencies"]["audit"], good) == ("down", False)
    await scene.recorder.close(5.0)
    assert (await scene.ask())[1] is True


async def test_there_is_no_other_probe() -> None:
    with pytest.raises(NotFound, match="/health/ready"):
        await Scene().ask("metrics")


@pytest.mark.parametrize(
    ("environment", "who", "public"),
    [
        ("development", "", True),
        ("staging", "", False),
        ("production", "", False),
        ("development", "administrators", False),
        ("production", "anyone", True),
    ],
)
def test_only_development_tells_strangers_everything_by_itself(
    environment: str, who: str, public: bool
) -> None:
    settings = GatewaySettings.model_construct(environment=environment, health_details=who)
    assert settings.public_health_details is public
