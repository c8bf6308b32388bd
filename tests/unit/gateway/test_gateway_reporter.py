"""What the gateway says of itself to those who ask over grpc.health.v1."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from services.common.clock import SystemClock
from services.common.health import Health
from services.gateway.dependencies import Dependencies
from services.gateway.reporter import Reporter


class Neighbour:
    """Is as it is told."""

    def __init__(self, *, up: bool) -> None:
        self.up = up

    async def states(self) -> Mapping[str, bool]:
        return {"": self.up}


async def begun(neighbour: Neighbour) -> tuple[Health, Dependencies, CollectorRegistry]:
    health, registry = Health(), CollectorRegistry()
    reporter = Reporter(registry, health)
    dependencies = Dependencies({"model": neighbour}, reporter, SystemClock())
    reporter.dependencies = dependencies
    await dependencies.look()
    reporter.begin()
    return health, dependencies, registry


async def test_a_gateway_whose_neighbours_are_well_from_the_start_serves() -> None:
    health, _, registry = await begun(Neighbour(up=True))
    assert health.serving
    assert registry.get_sample_value("weaver_dependency_up", {"dependency": "model"}) == 1


async def test_a_gateway_serves_once_its_neighbours_do() -> None:
    neighbour = Neighbour(up=False)
    health, dependencies, registry = await begun(neighbour)
    assert not health.serving
    assert registry.get_sample_value("weaver_dependency_up", {"dependency": "model"}) == 0
    neighbour.up = True
    await dependencies.look()
    assert health.serving
