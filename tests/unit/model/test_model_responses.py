"""OpenAI's responses pass through, and never look complete before they are."""

import json
from typing import Any

import pytest

from services.common.errors import InvalidArgument, Unavailable
from services.model.call import Call, Chunk, Dialect, Facts, Usage
from services.model.failure import ProviderError
from services.model.providers.openai import OpenAI
from services.model.upstream import Endpoint, Limits
from tests.fakes.instant import LoopClock, run
from tests.fakes.wire import Canned, Wire

BODY = b'{"model":"m",  "input":"hi","stream":true}'
USAGE = {
    "input_tokens": 3,
    "input_tokens_details": {"cached_tokens": 1},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 8,
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "model": "m-1",
    "status": "completed",
    "error": None,
    "output": [],
    "usage": USAGE,
}


def sse(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


CREATED = sse("response.created", response=RESPONSE | {"status": "in_progress", "usage": None})
DELTA = sse("response.output_text.delta", delta="some text", output_index=0, content_index=0)
COMPLETED = sse("response.completed", response=RESPONSE)


def provider(wire: Wire) -> OpenAI:
    return OpenAI(Endpoint(wire, "https://p.test/v1", (), Limits()), LoopClock())


def call() -> Call:
    return Call("r-1", Dialect.OPENAI_RESPONSES, "m", BODY)


def streamed(*pieces: bytes) -> tuple[list[Chunk], ProviderError | None, Facts]:
    async def main() -> tuple[list[Chunk], ProviderError | None, Facts]:
        wire = Wire(Canned(pieces=pieces, content_type="text/event-stream"))
        stream = await provider(wire).open(call())
        assert wire.bodies == [BODY]
        chunks = []
        try:
            while (chunk := await stream.read()) is not None:
                chunks.append(chunk)
        except ProviderError as error:
            return chunks, error, stream.facts
        return chunks, None, stream.facts

    return run(main())


def test_a_whole_response_passes_byte_for_byte() -> None:
    body = json.dumps(RESPONSE, indent=2).encode()
    wire = Wire(Canned(pieces=(body,)))
    answer = run(provider(wire).generate(call()))
    assert (wire.bodies, answer.body) == ([BODY], body)
    assert str(wire.requests[0].url) == "https://p.test/v1/responses"
    assert answer.facts == Facts("m-1", "completed", Usage(3, 5, 1, 0, 2))


def test_azure_serves_them_beside_its_deployments() -> None:
    wire = Wire(Canned(pieces=(json.dumps(RESPONSE).encode(),)))
    endpoint = Endpoint(wire, "https://a.test", (), Limits(), query="api-version=1")
    azure = OpenAI(endpoint, LoopClock(), prefix=lambda model: f"/openai/deployments/{model}")
    run(azure.generate(call()))
    assert str(wire.requests[0].url) == "https://a.test/openai/responses?api-version=1"


def test_an_incomplete_response_says_why() -> None:
    details = {"reason": "max_output_tokens"}
    body = RESPONSE | {"status": "incomplete", "incomplete_details": details, "usage": None}
    answer = run(provider(Wire(Canned(pieces=(json.dumps(body).encode(),)))).generate(call()))
    assert answer.facts.finish_reason == "max_output_tokens"
    assert (answer.facts.usage, answer.facts.answer_bytes) == (None, 2)
    lying = json.dumps(body | {"usage": USAGE | {"output_tokens": -1}}).encode()
    assert run(provider(Wire(Canned(pieces=(lying,)))).generate(call())).facts.usage is None


@pytest.mark.parametrize(
    "body",
    [b"{", b"{}", json.dumps(RESPONSE | {"status": "failed", "error": {"code": "x"}}).encode()],
)
def test_what_is_no_response_is_the_providers_failure(body: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        run(provider(Wire(Canned(pieces=(body,)))).generate(call()))
    assert isinstance(caught.value.error, Unavailable)


def test_a_stream_passes_and_its_last_event_is_the_end() -> None:
    chunks, error, facts = streamed(CREATED, b": ping\n\n" + DELTA, COMPLETED)
    assert error is None
    assert [chunk.body for chunk in chunks] == [CREATED, b": ping\n\n" + DELTA, COMPLETED]
    assert [chunk.terminal for chunk in chunks] == [False, False, True]
    assert facts == Facts("m-1", "completed", Usage(3, 5, 1, 0, 2), 9)


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {\n\n",
        b"data: {}\n\n",
        sse("error", message="no"),
        sse("response.failed", response=RESPONSE | {"status": "failed"}),
        b"",
    ],
)
def test_a_stream_that_fails_never_looks_whole(bad: bytes) -> None:
    chunks, error, facts = streamed(CREATED, DELTA, bad)
    assert error is not None
    assert [chunk.terminal for chunk in chunks] == [False, False]
    assert facts.answer_bytes == 9


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_responses_is_named_as_such(status: int, stream: bool) -> None:
    asked = provider(Wire(Canned(status, pieces=(b'{"detail":"Not Found"}',))))
    with pytest.raises(ProviderError) as caught:
        run(asked.open(call()) if stream else asked.generate(call()))
    assert caught.value.http_status == status
    assert not caught.value.elsewhere, "it was asked, so it is an attempt"
    assert "/v1/chat/completions" in caught.value.error.message
    assert caught.value.error.metadata == {"http_status": "404"}


def test_an_unknown_model_is_told_in_the_providers_words() -> None:
    body = json.dumps({"error": {"message": "The model `m` does not exist"}}).encode()
    with pytest.raises(ProviderError) as caught:
        run(provider(Wire(Canned(404, pieces=(body,)))).generate(call()))
    assert isinstance(caught.value.error, InvalidArgument)
    assert not caught.value.elsewhere
