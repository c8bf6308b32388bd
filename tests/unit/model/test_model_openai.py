"""The OpenAI provider over a transport without a network."""

import asyncio
import json

import httpx
import pytest

from services.common.errors import DeadlineExceeded, InvalidArgument, Unavailable
from services.model.call import Call, Chunk, Dialect, Usage
from services.model.credential import Credential
from services.model.event_stream import EventStream
from services.model.failure import ProviderError
from services.model.providers.openai import OpenAI
from services.model.upstream import Endpoint, Limits
from tests.fakes.instant import LoopClock, run
from tests.fakes.wire import Canned, Piece, Wire

ODD = b'{"temperature":1e0, "model":"m",\n"top_p":1.0,"messages":[{"content":"hi"}],"new":{}}'
ANSWER = b'{ "model":"m-1","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}'
STREAM = b'{"stream":true,"messages":[]}'
LIMITS = Limits(connect_s=1, first_byte_s=10, idle_s=5, answer_bytes=4096)


def sse(value: object) -> bytes:
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


WORD = sse({"choices": [{"delta": {"content": "word"}}]})
FINISH = sse({"choices": [{"delta": {}, "finish_reason": "stop"}]})
USAGE = sse({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
DONE = sse(b"[DONE]")


def provider(wire: Wire) -> OpenAI:
    endpoint = Endpoint(wire, "https://provider.test/v1", (), LIMITS, credential=Credential("sk-1"))
    return OpenAI(endpoint, LoopClock())


def call(body: bytes = ODD, dialect: Dialect = Dialect.OPENAI_CHAT) -> Call:
    headers = (("authorization", "Bearer client"), ("idempotency-key", "one"))
    return Call("r-1", dialect, "m", body, headers)


def events(*pieces: Piece, **changes: str) -> Canned:
    return Canned(pieces=pieces, content_type=changes.get("content_type", "text/event-stream"))


async def collect(stream: EventStream) -> tuple[list[Chunk], ProviderError | None]:
    chunks = []
    try:
        while (chunk := await stream.read()) is not None:
            chunks.append(chunk)
    except ProviderError as error:
        return chunks, error
    finally:
        await stream.aclose()
    return chunks, None


def streamed(canned: Canned, body: bytes = STREAM) -> tuple[list[Chunk], ProviderError | None]:
    async def main() -> tuple[list[Chunk], ProviderError | None]:
        return await collect(await provider(Wire(canned)).open(call(body)))

    return run(main())


def failure_of(canned: Canned, body: bytes = STREAM, *, stream: bool = True) -> ProviderError:
    async def main() -> None:
        asked = provider(Wire(canned))
        await (asked.open(call(body)) if stream else asked.generate(call(body)))

    with pytest.raises(ProviderError) as caught:
        run(main())
    assert canned.closed
    return caught.value


def test_bodies_pass_both_ways_byte_for_byte() -> None:
    wire = Wire(Canned(pieces=(ANSWER[:20], ANSWER[20:50], ANSWER[50:])))

    answer = run(provider(wire).generate(call()))

    assert wire.bodies == [ODD]
    assert answer.body == ANSWER
    assert answer.facts.usage == Usage(1)


def test_the_provider_sees_its_own_key_and_what_may_pass() -> None:
    wire = Wire(Canned(pieces=(ANSWER,), headers={"x-request-id": "req", "set-cookie": "a=b"}))

    answer = run(provider(wire).generate(call()))

    (request,) = wire.requests
    assert str(request.url) == "https://provider.test/v1/chat/completions"
    assert request.headers.get_list("authorization") == ["Bearer sk-1"]
    assert request.headers["idempotency-key"] == "one"
    assert request.headers["x-request-id"] == "r-1"
    assert answer.headers == (("x-upstream-request-id", "req"),)


def test_a_request_id_that_is_no_header_value_stays_here() -> None:
    wire = Wire(Canned(pieces=(ANSWER,)))
    asked = Call("r\r\nx: y", Dialect.OPENAI_CHAT, "m", ODD)

    run(provider(wire).generate(asked))

    assert "x-request-id" not in wire.requests[0].headers


def test_embeddings_have_their_own_path() -> None:
    wire = Wire(Canned(pieces=(b'{"data":[]}',)))

    run(provider(wire).generate(call(b"{}", Dialect.OPENAI_EMBEDDINGS)))

    assert wire.requests[0].url.path == "/v1/embeddings"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_is_told_in_the_providers_words(stream: bool) -> None:
    refused = Canned(400, (b'{"error":{"message":"sk-1: bad n"}}',))

    failure = failure_of(refused, stream=stream)

    assert isinstance(failure.error, InvalidArgument)
    assert failure.error.message == "[removed]: bad n"


def test_a_media_type_that_is_no_header_value_passes_without_its_parameters() -> None:
    odd = Canned(pieces=(ANSWER,), content_type="application/json; x=\x01")

    assert run(provider(Wire(odd)).generate(call())).content_type == "application/json"


@pytest.mark.parametrize("rest", [httpx.ReadError("x"), 9.0])
def test_a_refusal_stands_even_if_its_body_does_not_arrive(rest: Piece) -> None:
    failure = failure_of(Canned(503, (b'{"err', rest)), stream=False)

    assert (failure.http_status, failure.retryable) == (503, True)


@pytest.mark.parametrize(
    "canned",
    [
        Canned(pieces=(b"{garbage",)),
        Canned(pieces=(b'{"error":{}}',)),
        Canned(pieces=(ANSWER,), content_type="text/html"),
        Canned(pieces=(ANSWER,), headers={"content-encoding": "gzip"}),
        Canned(pieces=(b"{", httpx.ReadError("cut"))),
        Canned(pieces=(b"x" * 4097,)),
        Canned(pieces=(ANSWER.replace(b"m-1", b"caf\xe9"),)),
        Canned(pieces=(ANSWER.replace(b'{ "', b'{"id":"caf\xe9","'),)),
    ],
)
def test_nonsense_is_the_providers_failure(canned: Canned) -> None:
    failure = failure_of(canned, stream=False)

    assert isinstance(failure.error, Unavailable)
    assert failure.error.metadata["http_status"] == "502"


@pytest.mark.parametrize(
    "canned", [Canned(before=11.0), Canned(pieces=(b"{", 6.0)), Canned(pieces=(6.0, ANSWER))]
)
def test_silence_is_a_deadline(canned: Canned) -> None:
    async def main() -> None:
        await provider(Wire(canned)).generate(call())

    with pytest.raises(ProviderError) as caught:
        run(main())
    assert isinstance(caught.value.error, DeadlineExceeded)


def test_a_stream_passes_events_as_they_arrive_and_its_ending_at_once() -> None:
    asks = b'{"stream":true,"stream_options":{"include_usage":true}}'
    cut = 30
    canned = events(WORD + WORD + WORD[:cut], WORD[cut:] + FINISH, USAGE, DONE)

    chunks, error = streamed(canned, asks)

    assert chunks == [Chunk(WORD + WORD), Chunk(WORD), Chunk(FINISH + USAGE + DONE, terminal=True)]
    assert error is None
    assert canned.closed


def test_a_stream_asks_for_usage_and_takes_it_out_again() -> None:
    wire = Wire(events(WORD, FINISH + USAGE + DONE))

    async def main() -> EventStream:
        stream = await provider(wire).open(call(STREAM))
        chunks, _ = await collect(stream)
        assert chunks[-1] == Chunk(FINISH + DONE, terminal=True)
        return stream

    assert run(main()).facts.usage == Usage(1, 2)
    assert json.loads(wire.bodies[0])["stream_options"] == {"include_usage": True}


def test_comments_pass_but_do_not_begin_an_answer() -> None:
    chunks, _ = streamed(events(b": ping\n\n", b": ping\n\n", WORD + FINISH + DONE))

    assert [chunk.body for chunk in chunks] == [b": ping\n\n", b": ping\n\n", WORD, FINISH + DONE]


@pytest.mark.parametrize(
    "canned",
    [
        events(httpx.ReadError("cut")),
        events(),
        events(b": ping\n\n"),
        events(sse({"error": {"message": "overloaded"}})),
        events(sse(b"{")),
        events(DONE),
        events(WORD, content_type="application/json"),
        events(b"data: " + b"x" * 5000),
    ],
)
def test_a_stream_that_fails_before_its_first_event_is_no_stream(canned: Canned) -> None:
    assert failure_of(canned).error.reason == "PROVIDER_FAILED"


def test_a_stream_that_does_not_begin_in_time_is_a_deadline() -> None:
    ping = b": ping\n\n"

    assert failure_of(events(ping, 4.0, ping, 4.0, ping, 4.0, WORD)).error.reason == (
        "DEADLINE_EXCEEDED"
    )


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ((), "PROVIDER_FAILED"),
        ((FINISH,), "PROVIDER_FAILED"),
        ((FINISH, USAGE), "PROVIDER_FAILED"),
        ((DONE,), "PROVIDER_FAILED"),
        ((WORD[:20],), "PROVIDER_FAILED"),
        ((sse(b"{"), FINISH, DONE), "PROVIDER_FAILED"),
        ((sse({"error": "x"}),), "PROVIDER_FAILED"),
        ((httpx.ReadError("cut"),), "PROVIDER_FAILED"),
        ((FINISH, httpx.ReadError("cut")), "PROVIDER_FAILED"),
        ((6.0, FINISH, DONE), "DEADLINE_EXCEEDED"),
        ((FINISH, 6.0, DONE), "DEADLINE_EXCEEDED"),
        (tuple([WORD] * 100), "PROVIDER_FAILED"),
    ],
)
def test_a_stream_that_does_not_end_well_has_no_terminal_chunk(
    rest: tuple[Piece, ...], reason: str
) -> None:
    canned = events(WORD, *rest)

    chunks, error = streamed(canned)

    assert error is not None
    assert error.error.reason == reason
    assert chunks[0].body == WORD
    assert not any(chunk.terminal for chunk in chunks)
    assert canned.closed


def test_an_answer_is_whole_though_its_last_line_break_is_missing() -> None:
    chunks, error = streamed(events(WORD, FINISH, USAGE, DONE.rstrip()))
    assert error is None
    assert chunks[-1] == Chunk(FINISH + DONE, terminal=True)


def test_what_came_before_a_failure_in_the_same_piece_still_passes() -> None:
    chunks, error = streamed(events(WORD + sse(b"{")))

    assert [chunk.body for chunk in chunks] == [WORD]
    assert error is not None


def test_nothing_waits_for_a_provider_that_does_not_hang_up() -> None:
    async def main() -> float:
        stream = await provider(Wire(events(WORD + FINISH + DONE, 4.0, b"x"))).open(call(STREAM))
        started = asyncio.get_running_loop().time()
        chunks, error = await collect(stream)
        assert chunks[-1].terminal
        assert error is None
        return asyncio.get_running_loop().time() - started

    assert run(main()) < 0.1


def test_what_follows_the_end_is_read_and_forgotten() -> None:
    chunks, error = streamed(events(WORD + FINISH + DONE + WORD, WORD))

    assert [chunk.body for chunk in chunks] == [WORD, FINISH + DONE]
    assert error is None


def test_a_connection_that_breaks_after_the_end_does_no_harm() -> None:
    chunks, error = streamed(events(WORD + FINISH + DONE, httpx.ReadError("late")))

    assert (chunks[-1].terminal, error) == (True, None)


def test_cancelling_while_a_stream_begins_lets_go_of_the_provider() -> None:
    canned = events(b": ping\n\n", 4.0, WORD)

    async def main() -> None:
        task = asyncio.create_task(provider(Wire(canned)).open(call(STREAM)))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert canned.closed
