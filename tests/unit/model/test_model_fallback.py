"""What happens when a target fails and there is another, or none."""

import asyncio

import pytest

from services.common.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WeaverError,
)
from services.model.breaker import Breaker, BreakerPolicy, State
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Usage
from services.model.failure import ProviderError, failed, rejected, timed_out, untranslatable
from services.model.gate import Gate, GatePolicy
from services.model.generation import Generator
from services.model.retry import RetryBudget, RetryPolicy
from services.model.route import Route, Routes, Target
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, FakeStream, Figures

BODY = b'{"model":"public","messages":[{"content":"12345678"}]}'
CALL = Call("r", Dialect.OPENAI_CHAT, "public", BODY)
GOOD = Answer(b"{}", Facts("m-1", "stop", Usage(1, 2)))
ONCE = BreakerPolicy(failures=1, open_s=2)


def throttled(retry_after_s: float | None = None) -> ProviderError:
    error = ResourceExhausted("slow", reason="PROVIDER_THROTTLED", retry_after_s=retry_after_s)
    return ProviderError(error, http_status=429, retryable=True)


def resilient(
    *targets: Target, retries: int = 0, figures: Figures | None = None, **route: object
) -> Generator:
    told = figures or Figures()
    policy = RetryPolicy(retries, base_s=4, jitter=lambda: 0.5)
    routes = Routes([Route("public", targets, **route)])  # type: ignore[arg-type]
    return Generator(routes, policy, LoopClock(), told, told)


def answered_by(*scripts: Exception | Answer) -> list[str]:
    """Return who was asked, in order, when each target has one step of a script."""
    targets = [
        Target(FakeProvider(step, name=f"p{number}"), "public")
        for number, step in enumerate(scripts)
    ]
    _, generation = run(resilient(*targets).generate(CALL))
    return [attempt.provider for attempt in generation.attempts]


def told_of(*failures: Exception) -> WeaverError:
    targets = [Target(FakeProvider(failure, name=str(failure)), "public") for failure in failures]
    with pytest.raises(WeaverError) as caught:
        run(resilient(*targets).generate(CALL))
    return caught.value


@pytest.mark.parametrize(
    "failure", [failed("gone"), timed_out("silent"), throttled(60), rejected(404, b"{}")]
)
def test_the_next_target_answers_what_the_first_cannot(failure: ProviderError) -> None:
    assert answered_by(failure, GOOD) == ["p0", "p1"]


def test_a_target_that_cannot_be_asked_is_no_try_and_no_failure() -> None:
    figures = Figures()
    first = Target(FakeProvider(untranslatable("logprobs", "is not known here.")), "public")
    second = Target(FakeProvider(GOOD, name="two"), "public")

    _, generation = run(resilient(first, second, figures=figures).generate(CALL))

    assert [attempt.provider for attempt in generation.attempts] == ["two"]
    assert figures.states == [("provider:two", True, "")]
    assert first.gate.in_flight == 0


@pytest.mark.parametrize(
    ("failures", "kind"),
    [
        ((throttled(60), failed("gone")), ResourceExhausted),
        ((failed("gone"), throttled(60)), ResourceExhausted),
        ((timed_out("silent"), failed("gone")), Unavailable),
        ((failed("gone"), timed_out("silent")), DeadlineExceeded),
        ((untranslatable("a", "x"), failed("gone")), Unavailable),
        ((failed("gone"), rejected(404, b"{}")), Unavailable),
        ((rejected(404, b"{}"), rejected(404, b"{}")), InvalidArgument),
    ],
)
def test_of_several_failures_the_caller_is_told_the_one_to_act_on(
    failures: tuple[Exception, ...], kind: type[WeaverError]
) -> None:
    assert isinstance(told_of(*failures), kind)


def test_the_first_field_that_cannot_be_said_is_the_one_that_is_named() -> None:
    error = told_of(untranslatable("first", "x"), untranslatable("second", "y"))

    assert error.violations[0].field == "first"
    assert error.metadata == {"attempts": "0"}


def test_a_stream_falls_back_before_its_first_byte() -> None:
    stream = FakeStream(GOOD.facts, Chunk(b"x", terminal=True), None)
    first = Target(FakeProvider(failed("gone")), "public")
    second = Target(FakeProvider(stream, name="two"), "public")

    async def main() -> None:
        opened = await resilient(first, second).open(CALL)
        assert ("x-weaver-provider", "two") in opened.headers
        assert ("x-weaver-retry-reason", "provider_failed") in opened.headers
        assert (first.gate.in_flight, second.gate.in_flight) == (0, 1)
        while await opened.read() is not None:
            pass
        await opened.aclose()
        assert second.gate.in_flight == 0

    run(main())


def test_with_another_target_at_hand_patience_is_short() -> None:
    first = FakeProvider(throttled(3))
    targets = (Target(first, "public"), Target(FakeProvider(GOOD, name="two"), "public"))

    async def main() -> float:
        await resilient(*targets, retries=3).generate(CALL)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(1002)
    assert len(first.calls) == 1


def test_a_target_that_asked_for_patience_comes_last_for_so_long() -> None:
    first = FakeProvider(throttled(20), GOOD)
    second = FakeProvider(GOOD, GOOD, name="two")
    generator = resilient(Target(first, "public"), Target(second, "public"))

    async def main() -> None:
        await generator.generate(CALL)
        await generator.generate(CALL)
        await asyncio.sleep(30)
        _, generation = await generator.generate(CALL)
        assert generation.provider == "one"

    run(main())
    assert len(second.calls) == 2


def test_a_target_that_rests_is_passed_over() -> None:
    figures = Figures()
    first = FakeProvider(failed("gone"))
    target = Target(first, "public", breaker=Breaker(ONCE))
    second = Target(FakeProvider(GOOD, GOOD, name="two"), "public")
    generator = resilient(target, second, figures=figures)

    async def main() -> None:
        await generator.generate(CALL)
        await generator.generate(CALL)

    run(main())
    assert len(first.calls) == 1


def test_when_every_target_rests_the_caller_is_told_when_to_return() -> None:
    figures = Figures()
    target = Target(FakeProvider(failed("gone")), "public", breaker=Breaker(ONCE))
    generator = resilient(target, figures=figures)

    async def main() -> None:
        with pytest.raises(Unavailable):
            await generator.generate(CALL)
        with pytest.raises(Unavailable, match="left alone") as caught:
            await generator.generate(CALL)
        assert caught.value.retry_after_s == pytest.approx(2)
        assert caught.value.metadata == {"attempts": "0"}
        assert caught.value.reason == "PROVIDER_FAILED"

    run(main())
    assert figures.passed_over == ["one public open"]
    assert target.gate.in_flight == 0


def test_tries_stop_when_the_target_begins_to_rest() -> None:
    provider = FakeProvider(*(failed(str(number)) for number in range(9)))
    policy = BreakerPolicy(failures=2, open_s=60)

    with pytest.raises(Unavailable, match="1") as caught:
        run(
            resilient(Target(provider, "public", breaker=Breaker(policy)), retries=5).generate(CALL)
        )
    assert len(provider.calls) == 2
    assert caught.value.metadata["attempts"] == "2"


def test_what_the_caller_did_wrong_says_nothing_bad_of_the_target() -> None:
    provider = FakeProvider(rejected(400, b"{}"), throttled(60))
    target = Target(provider, "public", breaker=Breaker(ONCE))

    async def main() -> None:
        for kind in (InvalidArgument, ResourceExhausted):
            with pytest.raises(kind):
                await resilient(target).generate(CALL)

    run(main())
    assert target.breaker.state(2000) is State.CLOSED


@pytest.mark.parametrize(("timeout_s", "state"), [(5, State.CLOSED), (60, State.OPEN)])
def test_a_deadline_says_something_of_the_target_if_it_had_time(
    timeout_s: float, state: State
) -> None:
    policy = BreakerPolicy(failures=1, open_s=10_000, longest_open_s=10_000)
    target = Target(FakeProvider(90.0), "public", breaker=Breaker(policy))

    with pytest.raises(DeadlineExceeded):
        run(
            resilient(target).generate(
                Call("r", Dialect.OPENAI_CHAT, "public", BODY, timeout_s=timeout_s)
            )
        )
    assert target.breaker.state(2000) is state
    assert target.gate.in_flight == 0


def test_a_stream_that_breaks_counts_against_its_target() -> None:
    stream = FakeStream(GOOD.facts, Chunk(b"x"), failed("cut"))
    policy = BreakerPolicy(failures=1, open_s=10_000, longest_open_s=10_000)
    target = Target(FakeProvider(stream), "public", breaker=Breaker(policy))

    async def main() -> None:
        opened = await resilient(target).open(CALL)
        while await opened.read() is not None:
            pass
        await opened.aclose()

    run(main())
    assert target.breaker.state(2000) is State.OPEN
    assert target.gate.in_flight == 0


def test_a_full_target_passes_calls_on_and_the_last_one_refuses() -> None:
    figures = Figures()
    gates = [Gate(GatePolicy(in_flight=1, queue=0)) for _ in range(2)]
    targets = [
        Target(FakeProvider(9.0, name=f"p{number}"), "public", gate=gate)
        for number, gate in enumerate(gates)
    ]
    generator = resilient(*targets, figures=figures)

    async def main() -> None:
        tasks = [asyncio.create_task(generator.generate(CALL)) for _ in range(2)]
        await asyncio.sleep(1)
        assert [gate.in_flight for gate in gates] == [1, 1]
        with pytest.raises(Unavailable) as caught:
            await generator.generate(CALL)
        assert (caught.value.reason, caught.value.retry_after_s) == ("QUEUE_FULL", 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [gate.in_flight for gate in gates] == [0, 0]

    run(main())
    assert figures.passed_over == ["p0 public full", "p1 public full"]


def test_a_model_may_have_a_time_out_of_its_own_for_streams_too() -> None:
    slow = FakeStream(GOOD.facts, *(Chunk(b"x") for _ in range(9)))

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            await resilient(Target(FakeProvider(9.0), "public"), total_s=3).generate(CALL)
        target = Target(FakeProvider(slow), "public", breaker=Breaker(ONCE))
        opened = await resilient(target, total_s=3.5).open(CALL)
        while await opened.read() is not None:
            pass
        assert isinstance(opened.error, DeadlineExceeded)
        assert target.breaker.state(2000) is State.CLOSED
        await opened.aclose()

    run(main())


def test_without_a_budget_nothing_is_tried_again() -> None:
    provider = FakeProvider(failed("gone"), GOOD)
    budget = RetryBudget(share=0, per_s=0, most=0)

    with pytest.raises(Unavailable):
        run(resilient(Target(provider, "public"), retries=3, budget=budget).generate(CALL))
    assert len(provider.calls) == 1


def test_a_budget_earns_with_calls_and_with_time() -> None:
    budget = RetryBudget(share=0.5, per_s=1, most=2)

    assert [budget.spend(1), budget.spend(1), budget.spend(1)] == [True, True, False]
    budget.earn()
    assert not budget.spend(1)
    budget.earn()
    assert budget.spend(1)
    assert [budget.spend(2), budget.spend(2)] == [True, False]
    assert [budget.spend(99) for _ in range(3)] == [True, True, False]
    for _ in range(99):
        budget.earn()
    assert [budget.spend(99) for _ in range(3)] == [True, True, False]
