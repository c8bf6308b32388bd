"""Following the route file and the key files, and what stays when they change."""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import structlog

from services.model.assembly import Assembly
from services.model.breaker import BreakerPolicy, State
from services.model.call import Call, Dialect
from services.model.credential import CredentialError
from services.model.declaration import Declaration
from services.model.gate import GatePolicy
from services.model.providers.stub import StubSettings
from services.model.route import Routes
from services.model.route_file import RouteFileError, parse
from services.model.route_watch import RouteWatch
from services.model.upstream import Limits
from tests.fakes.instant import LoopClock
from tests.fakes.providers import Figures
from tests.fakes.wire import Canned, Wire

FILE = """
version: 1
providers:
  p: {{kind: openai, endpoint: "http://x.test/v1", key_file: {key}}}
  q: {{kind: azure, endpoint: "https://y.test", key_file: {key}, calls_at_once: {calls}}}
  a: {{kind: anthropic, endpoint: "http://z.test/v1", key_file: {key}}}
  s: {{kind: stub}}
models:
  one: {{targets: [{{provider: p}}]}}
  two: {{targets: [{{provider: q}}]}}
  three: {{targets: [{{provider: a}}], retries: 1, retry_share: 0.5}}
  four: {{targets: [{{provider: s}}]}}
"""
ANSWER = b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'


class Told:
    """What the watch told: the audit log and the metrics."""

    def __init__(self) -> None:
        self.changes: list[Mapping[str, str]] = []
        self.read: list[str] = []

    def configuration_changed(self, attributes: Mapping[str, str]) -> None:
        self.changes.append(attributes)

    def routes_read(self, *, good: bool) -> None:
        self.read.append(f"routes {good}")

    def key_read(self, provider: str, *, good: bool) -> None:
        self.read.append(f"{provider} {good}")


class Followed:
    """A watch over files of its own."""

    def __init__(self, directory: Path) -> None:
        self.key = directory / "key"
        self.key.write_text("sk-one")
        self.file = directory / "routes.yaml"
        self.write()
        self.told, self.figures = Told(), Figures()
        self.states: list[str] = []
        self.wire = Wire(*(Canned(pieces=(ANSWER,)) for _ in range(9)))
        self.routes = Routes([])
        assembly = Assembly(
            self.wire, LoopClock(), StubSettings(), BreakerPolicy(failures=1), self._state
        )
        declare = partial(
            parse, own=Declaration(), limits=Limits(), gate=GatePolicy(), environment={}
        )
        self.watch = RouteWatch(
            self.file, declare, assembly, health=self.figures, gauge=self.told, trail=self.told
        )
        self.watch.adopt = self._adopt

    def write(self, calls: int = 3, extra: str = "") -> None:
        self.file.write_text(FILE.format(key=self.key, calls=calls) + extra)

    def _adopt(self, routes: Routes) -> None:
        self.routes = routes

    def _state(self, provider: str, model: str, state: State, reason: str) -> None:
        self.states.append(f"{provider} {model} {state.value} {reason}")

    async def asked(self, model: str) -> tuple[str, Mapping[str, str]]:
        target = self.routes.find(model).targets[0]
        await target.provider.generate(Call("r", Dialect.OPENAI_CHAT, model, b'{"model":"m"}'))
        request = self.wire.requests[-1]
        return str(request.url), request.headers


@pytest.fixture
def followed(tmp_path: Path) -> Followed:
    return Followed(tmp_path)


def test_each_kind_of_provider_gets_its_path_and_its_key(followed: Followed) -> None:
    async def main() -> None:
        followed.routes = followed.watch.first()
        url, headers = await followed.asked("one")
        assert url == "http://x.test/v1/chat/completions"
        assert headers["authorization"] == "Bearer sk-one"
        url, headers = await followed.asked("two")
        assert url == (
            "https://y.test/openai/deployments/two/chat/completions?api-version=2024-10-21"
        )
        assert headers["api-key"] == "sk-one"
        assert "authorization" not in headers

    asyncio.run(main())
    names = {route.name: route.targets[0].provider.name for route in followed.routes}
    assert names == {"one": "p", "two": "q", "three": "a", "four": "s"}
    assert followed.figures.states == [("routes", True, "")]


def test_a_name_that_a_client_chose_stays_below_its_deployment(followed: Followed) -> None:
    async def main() -> None:
        followed.write(extra="  'any/*': {targets: [{provider: q, model: '*'}]}\n")
        followed.routes = followed.watch.first()
        route = followed.routes.find("any/../../secret?a=b#c")
        target = route.targets[0]
        model = route.name_at(target, "any/../../secret?a=b#c")
        body = b'{"model":"m"}'
        await target.provider.generate(Call("r", Dialect.OPENAI_CHAT, model, body))
        assert str(followed.wire.requests[-1].url) == (
            "https://y.test/openai/deployments/..%2F..%2Fsecret%3Fa%3Db%23c"
            "/chat/completions?api-version=2024-10-21"
        )

    asyncio.run(main())


def test_a_changed_file_decides_and_keeps_what_is_known_of_its_targets(followed: Followed) -> None:
    async def main() -> None:
        followed.routes = before = followed.watch.first()
        before.find("two").targets[0].breaker.failed(1)
        before.find("two").targets[0].gate.in_flight = 2
        followed.write(calls=9, extra="  five: {targets: [{provider: s}]}\n")
        await followed.watch.look()
        await followed.watch.look()
        assert followed.routes is not before

    asyncio.run(main())
    assert followed.routes.find("five")
    target = followed.routes.find("two").targets[0]
    assert target.breaker.state(1) is State.OPEN
    assert (target.gate.in_flight, target.gate.policy.in_flight) == (2, 9)
    assert followed.states == ["q two open 1 failures in a row"]
    (change,) = followed.told.changes
    assert change["setting"] == "model_routes"
    assert change["before"] != change["now"]
    assert followed.told.read == ["routes True"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [("version: 1", "`models`"), ("{", "expected"), (None, "cannot read")],
)
def test_a_bad_file_keeps_the_old_routes_and_says_so_everywhere(
    followed: Followed, content: str | None, problem: str
) -> None:
    async def main() -> None:
        followed.routes = before = followed.watch.first()
        if content is None:
            followed.file.unlink()
        else:
            followed.file.write_text(content)
        await followed.watch.look()
        await followed.watch.look()
        assert followed.routes is before
        followed.write()
        await followed.watch.look()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(main())
    refused, *_ = [line for line in logs if line["log_level"] == "error"]
    assert problem in refused["problem"]
    assert problem in followed.told.changes[0]["refused"]
    assert len(followed.told.changes) == 1
    states = [state for state in followed.figures.states if state[0] == "routes"]
    assert [serving for _, serving, _ in states] == [True, False, True]
    assert problem in states[1][2]
    assert followed.told.read == ["routes False", "routes True"]


def test_a_file_that_names_a_missing_key_is_refused_whole(followed: Followed) -> None:
    async def main() -> None:
        followed.routes = before = followed.watch.first()
        text = followed.file.read_text()
        followed.file.write_text(text.replace(str(followed.key), str(followed.key) + "-missing", 1))
        await followed.watch.look()
        assert followed.routes is before
        _, headers = await followed.asked("one")
        assert headers["authorization"] == "Bearer sk-one"

    asyncio.run(main())
    assert "cannot read" in followed.told.changes[0]["refused"]


def test_a_rotated_key_takes_effect_and_a_bad_one_does_not(followed: Followed) -> None:
    async def main() -> None:
        followed.routes = followed.watch.first()
        followed.key.write_text("sk-two")
        await followed.watch.look()
        _, headers = await followed.asked("one")
        assert headers["authorization"] == "Bearer sk-two"
        followed.key.write_text("")
        await followed.watch.look()
        await followed.watch.look()
        _, headers = await followed.asked("one")
        assert headers["authorization"] == "Bearer sk-two"
        followed.key.write_text("sk-three")
        await followed.watch.look()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(main())
    assert "sk-" not in str(logs) + str(followed.told.changes)
    assert {"setting": "provider_key", "provider": "p"} in followed.told.changes
    keys = [one for one in followed.figures.states if one[0] == "provider_key:p"]
    assert [serving for _, serving, _ in keys] == [True, False, True]
    assert [read for read in followed.told.read if read.startswith("p ")] == [
        "p True",
        "p False",
        "p True",
    ]


def test_what_is_bad_at_the_start_stops_the_start(followed: Followed) -> None:
    followed.key.unlink()
    with pytest.raises(CredentialError, match="cannot read"):
        followed.watch.first()
    followed.file.write_text("{")
    with pytest.raises(RouteFileError):
        followed.watch.first()
    followed.file.unlink()
    with pytest.raises(RouteFileError, match="cannot read"):
        followed.watch.first()


def test_it_looks_each_second_and_when_it_is_asked(followed: Followed) -> None:
    async def main() -> None:
        followed.routes = followed.watch.first()
        followed.watch.start(1000)
        followed.write(extra="  five: {targets: [{provider: s}]}\n")
        followed.watch.ask()
        while "five" not in {route.name for route in followed.routes}:
            await asyncio.sleep(0.01)
        await followed.watch.close()

    asyncio.run(main())
