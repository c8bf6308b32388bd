"""A streaming call from its first event to its end."""

import pytest

from services.common.errors import (
    WeaverError,
)
from services.model.call import Answer, Call, Chunk, Dialect, Facts, Headers, Usage
from services.model.failure import ProviderError, failed, timed_out
from services.model.generation import Generator
from services.model.retry import RetryPolicy
from services.model.route import Route, Routes, Target
from services.model.usage import Prices
from tests.fakes.instant import LoopClock, run
from tests.fakes.providers import FakeProvider, FakeStream, Figures

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


async def _read_all(
    figures: Figures, stream: FakeStream, *before: Exception
) -> tuple[list[Chunk], WeaverError | None, list[str], float]:
    opened = await single(FakeProvider(*before, stream), figures).open(CALL)
    told: Headers = (("x-weaver-provider", "one"), ("x-weaver-attempts", str(len(before) + 1)))
    if before:
        told += (("x-weaver-retry-reason", "provider_failed"),)
    assert opened.content_type == stream.content_type
    assert opened.headers == (*stream.headers, *told)
    chunks = []
    while (chunk := await opened.read()) is not None:
        chunks.append(chunk)
    generation = opened.generation()
    await opened.aclose()
    assert stream.closed
    errors = [attempt.error for attempt in generation.attempts]
    return chunks, opened.error, errors, generation.upstream_duration_s


def test_a_stream_ends_with_what_is_known() -> None:
    figures = Figures()
    last = Chunk(b"b", terminal=True)
    stream = FakeStream(GOOD.facts, Chunk(b"a"), last, None)

    chunks, error, errors, spent_s = run(_read_all(figures, stream))

    assert chunks == [Chunk(b"a"), last]
    assert (error, errors) == (None, [""])
    assert spent_s == pytest.approx(4)
    assert figures.first_bytes == [pytest.approx(1)]
    assert figures.attempts == ["one public ok 4"]
    assert figures.used == [USAGE]


def test_a_stream_is_tried_again_before_its_first_byte() -> None:
    stream = FakeStream(GOOD.facts, None)

    _, error, errors, _ = run(_read_all(Figures(), stream, failed("gone")))

    assert (error, errors) == (None, ["PROVIDER_FAILED", ""])


@pytest.mark.parametrize("failure", [failed("broken"), timed_out("silent")])
def test_a_stream_that_breaks_is_not_tried_again(failure: ProviderError) -> None:
    figures = Figures()
    stream = FakeStream(Facts(answer_bytes=8), Chunk(b"a"), failure)

    chunks, error, errors, _ = run(_read_all(figures, stream))

    assert chunks == [Chunk(b"a")]
    assert error is failure.error
    assert errors == [failure.error.reason]
    assert figures.attempts == [f"one public {failure.error.reason.lower()} 3"]
    assert figures.used == [Usage(2, 2, estimated=True)]
    assert figures.states == [("provider:one", False, failure.error.message)]


def test_a_stream_that_is_left_is_counted_as_cancelled() -> None:
    figures = Figures()
    stream = FakeStream(Facts(), Chunk(b"a"))

    async def main() -> None:
        opened = await single(FakeProvider(stream), figures).open(CALL)
        await opened.read()
        await opened.aclose()

    run(main())
    assert stream.closed
    assert figures.attempts == ["one public cancelled 2"]
