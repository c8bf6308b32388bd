"""One call from beginning to end."""

import asyncio

import pytest

from services.common.errors import (
    DeadlineExceeded,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    WeaverError,
)
from services.model.call import Answer, Attempt, Call, Dialect, Facts, Usage
from services.model.failure import ProviderError, failed, rejected
from services.model.generation import Generator
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.usage import Prices
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, Figures

BODY = b'{"model":"public","messages":[{"content":"12345678"}]}'
CALL = Call("r", Dialect.OPENAI_CHAT, "public", BODY)
USAGE = Usage(10, 20)
GOOD = Answer(b"{}", Facts("m-1", "stop", USAGE))


def generator(figures: Figures, *targets: Target, retries: int = 2) -> Generator:
    routes = Routes([Route("public", targets)])
    policy = RetryPolicy(retries, base_s=4, jitter=lambda: 0.5)
    return Generator(routes, policy, LoopClock(), figures, figures)


def single(provider: FakeProvider, figures: Figures | None = None, retries: int = 2) -> Generator:
    target = Target(provider, "public", Prices(1_000_000, 2_000_000))
    return generator(figures or Figures(), target, retries=retries)


def error_of(
    provider: FakeProvider, call: Call = CALL, figures: Figures | None = None
) -> WeaverError:
    with pytest.raises(WeaverError) as caught:
        run(single(provider, figures).generate(call))
    return caught.value


def test_an_answer_comes_with_all_that_is_known() -> None:
    figures = Figures()

    answer, generation = run(single(FakeProvider(GOOD), figures).generate(CALL))

    assert answer is GOOD
    assert (generation.provider, generation.model, generation.finish_reason) == (
        "one",
        "m-1",
        "stop",
    )
    assert (generation.usage, generation.cost_micros) == (USAGE, 50)
    assert generation.price_version == Prices(1_000_000, 2_000_000).version
    assert generation.attempts == (Attempt("one", "public", 200, "", 1.0),)
    assert generation.upstream_duration_s == pytest.approx(1)
    assert figures.attempts == ["one public ok 1"]
    assert figures.used == [USAGE]
    assert figures.states == [("provider:one", True, "")]


def test_without_a_count_there_is_an_estimate() -> None:
    _, generation = run(single(FakeProvider(Answer(b"{}", Facts(answer_bytes=4)))).generate(CALL))

    assert generation.usage == Usage(2, 1, estimated=True)
    assert generation.model == "public"


def test_tries_are_repeated_with_a_pause_and_all_noted() -> None:
    figures = Figures()
    provider = FakeProvider(failed("gone", http_status=503), failed("gone"), GOOD)

    async def main() -> float:
        _, generation = await single(provider, figures).generate(CALL)
        assert [attempt.error for attempt in generation.attempts] == ["PROVIDER_FAILED"] * 2 + [""]
        assert [attempt.http_status for attempt in generation.attempts] == [503, 0, 200]
        assert generation.upstream_duration_s == pytest.approx(3)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1000 + 3 + 2 + 2.5)
    assert figures.attempts == ["one public provider_failed 1"] * 2 + ["one public ok 1"]
    assert figures.states == [("provider:one", False, "gone")] * 2 + [("provider:one", True, "")]


def test_when_the_tries_are_used_up_the_error_says_how_many_there_were() -> None:
    error = error_of(FakeProvider(*(failed("gone") for _ in range(3))))

    assert isinstance(error, Unavailable)
    assert error.metadata == {
        "http_status": "502",
        "provider": "one",
        "attempts": "3",
        "tries": ", ".join(["one/public provider_failed -"] * 3),
    }


def test_a_rejection_is_not_repeated_and_does_not_make_the_provider_unhealthy() -> None:
    figures = Figures()
    provider = FakeProvider(rejected(400, b"{}"))

    assert error_of(provider, figures=figures).reason == "PROVIDER_REJECTED"
    assert len(provider.calls) == 1
    assert figures.states == [("provider:one", True, "")]


def test_an_unknown_model_asks_nobody() -> None:
    provider = FakeProvider()

    with pytest.raises(NotFound):
        run(single(provider).generate(Call("r", Dialect.OPENAI_CHAT, "other", BODY)))
    with pytest.raises(Unimplemented):
        run(single(provider).generate(Call("r", Dialect.ANTHROPIC_MESSAGES, "public", BODY)))
    assert provider.calls == []


@pytest.mark.parametrize("script", [(9.0,), (failed("gone"), 9.0)])
def test_the_deadline_ends_a_try_under_way(script: tuple[Exception | float, ...]) -> None:
    figures = Figures()
    error = error_of(
        FakeProvider(*script),
        Call("r", Dialect.OPENAI_CHAT, "public", BODY, timeout_s=5),
        figures,
    )

    assert isinstance(error, DeadlineExceeded)
    assert error.metadata["attempts"] == str(len(script))
    assert figures.attempts[-1].startswith("one public deadline_exceeded")


def test_the_answer_to_a_deadline_is_in_time() -> None:
    async def main() -> float:
        call = Call("r", Dialect.OPENAI_CHAT, "public", BODY, timeout_s=5)
        with pytest.raises(DeadlineExceeded):
            await single(FakeProvider(9.0)).generate(call)
        return asyncio.get_running_loop().time()

    assert 1004.9 < run(main()) < 1005


def test_a_pause_that_would_pass_the_deadline_is_not_made() -> None:
    call = Call("r", Dialect.OPENAI_CHAT, "public", BODY, timeout_s=2.5)
    provider = FakeProvider(failed("gone"), GOOD)

    assert isinstance(error_of(provider, call), Unavailable)
    assert len(provider.calls) == 1


def test_cancelling_is_noted_and_says_nothing_of_the_provider() -> None:
    figures = Figures()

    async def main() -> None:
        task = asyncio.create_task(single(FakeProvider(9.0), figures).generate(CALL))
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert figures.attempts == ["one public cancelled 2"]
    assert figures.states == []


def test_cancelling_between_two_tries_leaves_those_that_were_made() -> None:
    figures = Figures()

    async def main() -> None:
        provider = FakeProvider(failed("gone"))
        task = asyncio.create_task(single(provider, figures).generate(CALL))
        await asyncio.sleep(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert figures.attempts == ["one public provider_failed 1"]


def test_the_next_target_gets_its_own_name_for_the_model() -> None:
    first = FakeProvider(failed("gone", retryable=False))
    second = FakeProvider(GOOD, name="two")
    targets = (Target(first, "public"), Target(second, "theirs"))

    _, generation = run(generator(Figures(), *targets).generate(CALL))

    assert generation.provider == "two"
    assert [attempt.provider for attempt in generation.attempts] == ["one", "two"]
    assert second.calls[0].model == "theirs"
    assert second.calls[0].body == BODY.replace(b'"public"', b'"theirs"')


def test_what_one_provider_rejects_is_not_asked_of_the_next() -> None:
    first, second = FakeProvider(rejected(400, b"{}")), FakeProvider(name="two")

    with pytest.raises(WeaverError, match="refuses"):
        run(generator(Figures(), Target(first, "public"), Target(second, "x")).generate(CALL))
    assert second.calls == []


def test_a_throttled_provider_is_told_as_such_when_no_target_is_left() -> None:
    throttled = ProviderError(ResourceExhausted("x", retry_after_s=60), retryable=True)

    assert error_of(FakeProvider(throttled)).retry_after_s == 60
