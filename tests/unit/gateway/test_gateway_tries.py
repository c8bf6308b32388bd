"""What the record and the client learn of tries, and which models a caller may use."""

import msgspec
import pytest

from services.common.errors import NotFound, Unavailable
from services.gateway import http
from services.gateway.calls import Ask, WholeResponse
from services.gateway.catalogue import FRESH_S, Catalogue
from services.gateway.ports import Answer, ModelCall, ModelInfo
from tests.fakes.gateway import GENERATION, FakeModel, StillClock, Suite

FACTS = {"provider": "two", "attempts": "3", "tries": "one/m provider_failed 503"}


class Listed(FakeModel):
    """A model service with models for some and patterns."""

    async def models(self) -> list[ModelInfo]:
        if self.error is not None:
            raise self.error
        plain = ModelInfo("plain", "p", 0, 0, 0, 0, 0)
        return [
            plain,
            msgspec.structs.replace(plain, id="secret", roles=("research", "admin")),
            msgspec.structs.replace(plain, id="local/*-big", pattern=True),
            msgspec.structs.replace(plain, id="local/*", pattern=True, roles=("research",)),
        ]


async def test_a_caller_sees_and_finds_the_models_of_its_roles() -> None:
    catalogue = Catalogue(Listed(), StillClock())

    assert [model.id for model in await catalogue.models(["user"])] == ["plain"]
    assert [model.id for model in await catalogue.models(["research"])] == ["plain", "secret"]
    assert (await catalogue.find("secret", ["admin"])).id == "secret"
    with pytest.raises(NotFound, match="does not exist or you may not use it"):
        await catalogue.find("secret", ["user"])
    with pytest.raises(NotFound, match="does not exist or you may not use it"):
        await catalogue.find("other", ["admin"])


async def test_a_pattern_stands_for_names_the_most_exact_first() -> None:
    catalogue = Catalogue(Listed(), StillClock())

    assert (await catalogue.find("local/llama-big", [])).id == "local/*-big"
    assert (await catalogue.find("local/llama", ["research"])).id == "local/*"
    assert (await catalogue.find("local/" + "a" * 250, ["research"])).id == "local/*"
    for name, role in (
        ("local/llama", "user"),
        ("local/", "research"),
        ("x/local/a", "research"),
        ("local/" + "a" * 251, "research"),
    ):
        with pytest.raises(NotFound):
            await catalogue.find(name, [role])


@pytest.mark.parametrize(
    ("name", "role", "ids"),
    [
        ("plain", "user", ["plain"]),
        ("secret", "user", []),
        ("local/llama-big", "user", ["local/llama-big"]),
        ("local/llama", "research", ["local/llama"]),
        ("local/llama", "user", []),
        ("local/*", "research", []),
        ("other", "user", []),
    ],
)
async def test_one_model_is_told_of_under_its_name_also_where_a_pattern_stands_for_it(
    name: str, role: str, ids: list[str]
) -> None:
    models = await Catalogue(Listed(), StillClock()).models([role], name)

    assert [model.id for model in models] == ids
    assert not any(model.pattern for model in models)


async def test_the_last_list_serves_while_nobody_renews_it() -> None:
    clock, model = StillClock(), Listed()
    catalogue = Catalogue(model, clock)
    await catalogue.models([])
    model.error = Unavailable("gone")
    clock.now += FRESH_S

    assert (await catalogue.find("plain", [])).id == "plain"
    with pytest.raises(Unavailable):
        await Catalogue(model, clock).find("plain", [])


async def test_the_record_of_a_failed_call_says_who_was_tried() -> None:
    suite = Suite()
    suite.model.error = Unavailable("gone", reason="PROVIDER_FAILED", metadata=FACTS)

    with pytest.raises(Unavailable):
        await suite.pipeline.run(suite.call())
    await suite.settle()

    outcome = suite.log.events[-1]
    assert (outcome.provider, outcome.attempts) == ("two", 3)
    assert outcome.attributes == {"tries": FACTS["tries"]}
    assert suite.limiter.settled == [(None, 0)]


async def test_the_record_of_an_answer_says_who_was_tried_before() -> None:
    class Retried(FakeModel):
        async def generate(self, call: ModelCall, *, timeout_s: float) -> Answer:
            generation = msgspec.structs.replace(GENERATION, attempts=2, tries="x" * 5000)
            return Answer(self.answer, "application/json", (), generation)

    suite = Suite()
    suite.pipeline._model = Retried()
    assert isinstance(await suite.pipeline.run(suite.call()), WholeResponse)
    await suite.settle()

    outcome = suite.log.events[-1]
    assert outcome.attempts == 2
    assert outcome.attributes == {"tries": "x" * 1024}


async def test_a_call_without_tries_has_nothing_to_say_of_them() -> None:
    suite = Suite()
    await suite.pipeline.run(suite.call())
    await suite.settle()

    assert suite.log.events[-1].attributes == {}


def test_an_errors_headers_say_who_was_tried_and_how_often() -> None:
    trailers = http.error_trailers(Unavailable("gone", metadata=FACTS), b"{}")

    assert ("x-weaver-provider", "two") in trailers
    assert ("x-weaver-attempts", "3") in trailers
    assert not [name for name, _ in trailers if "tries" in name]
    assert not [
        name for name, _ in http.error_trailers(Unavailable("x"), b"{}") if "weaver-a" in name
    ]


def test_an_ask_for_no_model_costs_nothing() -> None:
    assert Ask("m", b"{}", stream=False, input_tokens=1, output_tokens=1).cost_micros(None) == 0
