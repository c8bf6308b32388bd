"""The stub provider."""

import asyncio
import base64
import json
import struct
from typing import Any

import pytest

from services.common.errors import InvalidArgument
from services.model.call import Call, Chunk, Dialect, Usage
from services.model.failure import ProviderError
from services.model.providers.stub import Stub, StubSettings
from tests.fakes.instant import LoopClock, run


def call(dialect: Dialect = Dialect.OPENAI_CHAT, /, **fields: object) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello there"}]} | fields
    return Call("r", dialect, "m", json.dumps(body).encode())


def ask(settings: StubSettings | None = None, /, **fields: object) -> dict[str, Any]:
    answer = run(Stub(LoopClock(), settings).generate(call(**fields)))
    decoded: dict[str, Any] = json.loads(answer.body)
    return decoded


def text(settings: StubSettings | None = None, /, **fields: object) -> str:
    content: str = ask(settings, **fields)["choices"][0]["message"]["content"]
    return content


async def collect(stub: Stub, asked: Call) -> list[Chunk]:
    stream = await stub.open(asked)
    chunks = []
    while (chunk := await stream.read()) is not None:
        chunks.append(chunk)
    await stream.aclose()
    return chunks


def stream_events(**fields: object) -> list[Any]:
    chunks = run(collect(Stub(LoopClock()), call(stream=True, **fields)))
    assert [chunk.terminal for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    lines = b"".join(chunk.body for chunk in chunks).decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def embed(**fields: object) -> dict[str, Any]:
    asked = call(Dialect.OPENAI_EMBEDDINGS, **fields)
    decoded: dict[str, Any] = json.loads(run(Stub(LoopClock()).generate(asked)).body)
    return decoded


def test_the_same_prompt_gets_the_same_answer() -> None:
    assert ask() == ask()
    assert text() != text(messages=[{"role": "user", "content": "other"}])


def test_the_answer_says_the_prompt_back_in_the_asked_length() -> None:
    assert text().startswith("You said: hello there ")
    assert len(text().split()) == 16
    assert len(text(StubSettings(words=300)).split()) == 300
    assert text(StubSettings(words=1)) == "You"


def test_the_answer_has_the_vendors_shape() -> None:
    answer = ask(n=2)

    assert answer["object"] == "chat.completion"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 32, "total_tokens": 34}


def test_parts_of_a_message_are_read() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "image_url"}, 3, {"text": "two"}]

    assert text(messages=[{"content": parts}]).startswith("You said: one two ")
    assert text(messages=[{"content": None}]).startswith("You said: ")
    assert text(messages=[]).startswith("You said: ")


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_cuts_the_answer(field: str) -> None:
    answer = ask(**{field: 3})

    assert answer["choices"][0]["message"]["content"] == "You said: hello"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stop", [" hello", ["nowhere", "", " hello", " there"]])
def test_stop_sequences_end_the_answer(stop: object) -> None:
    answer = ask(stop=stop)

    assert answer["choices"][0]["message"]["content"] == "You said:"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert ask(stop="nowhere")["choices"][0]["finish_reason"] == "stop"


def test_the_stream_says_what_the_answer_says() -> None:
    events = stream_events()

    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert said == text()
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in event for event in events)


def test_the_stream_ends_with_the_usage_when_asked() -> None:
    events = stream_events(stream_options={"include_usage": True}, n=2)

    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == ask(n=2)["usage"]
    assert all(event["usage"] is None for event in events[:-1])
    finishes = [event["choices"][0] for event in events[-3:-1]]
    assert [(choice["index"], choice["finish_reason"]) for choice in finishes] == [
        (0, "stop"),
        (1, "stop"),
    ]


def test_the_stream_knows_its_usage() -> None:
    async def main() -> Usage | None:
        return (await Stub(LoopClock()).open(call(stream=True))).facts.usage

    assert run(main()) == Usage(2, 16)


def test_latency_and_chunk_delay_take_their_time() -> None:
    stub = Stub(LoopClock(), StubSettings(latency_s=2, chunk_delay_s=0.5, words=4))

    async def main() -> tuple[float, float, float]:
        now = asyncio.get_running_loop().time
        before = now()
        await stub.generate(call())
        answered = now()
        chunks = await collect(stub, call(stream=True))
        assert len(chunks) == 6
        return answered - before, now() - answered, 2 + 6 * 0.5

    unary, streamed, expected = run(main())
    assert unary == pytest.approx(2)
    assert streamed == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dialect", "body", "param"),
    [
        (Dialect.OPENAI_CHAT, b"{", "messages"),
        (Dialect.OPENAI_CHAT, b"{}", "messages"),
        (Dialect.OPENAI_CHAT, b'{"messages":[],"n":0}', "n"),
        (Dialect.OPENAI_CHAT, b'{"messages":[],"n":9}', "n"),
        (Dialect.OPENAI_EMBEDDINGS, b'{"input":{}}', "input"),
        (Dialect.OPENAI_EMBEDDINGS, b'{"input":"x","dimensions":0}', "dimensions"),
        (Dialect.OPENAI_EMBEDDINGS, b'{"input":"x","dimensions":5000}', "dimensions"),
    ],
)
def test_nonsense_is_refused_in_the_vendors_shape(
    dialect: Dialect, body: bytes, param: str
) -> None:
    with pytest.raises(ProviderError) as caught:
        run(Stub(LoopClock()).generate(Call("r", dialect, "m", body)))
    error = caught.value.error
    assert isinstance(error, InvalidArgument)
    assert json.loads(error.metadata["vendor_body"])["error"]["param"] == param


def test_embeddings_do_not_stream() -> None:
    with pytest.raises(ProviderError):
        run(Stub(LoopClock()).open(call(Dialect.OPENAI_EMBEDDINGS, stream=True)))


def test_vectors_depend_on_the_text_alone_and_have_length_one() -> None:
    first, second, third = (item["embedding"] for item in embed(input=["a", "b", "a"])["data"])

    assert first == third != second
    assert len(first) == 8
    assert sum(number * number for number in first) == pytest.approx(1)
    assert embed(input="a")["data"][0]["embedding"] == first


def test_vectors_come_in_the_asked_size_and_encoding() -> None:
    answer = embed(input="a", dimensions=3, encoding_format="base64")
    plain = embed(input="a", dimensions=3)["data"][0]["embedding"]

    raw = base64.b64decode(answer["data"][0]["embedding"])
    assert struct.unpack("<3f", raw) == pytest.approx(plain)


def test_embedding_inputs_may_be_tokens() -> None:
    assert len(embed(input=[1, 2, 3])["data"]) == 1
    assert embed(input=[1, 2, 3])["usage"]["prompt_tokens"] == 3
    assert len(embed(input=[[1, 2], [3]])["data"]) == 2
    assert embed(input="one two")["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert embed(input=[])["data"] == []


def respond(body: bytes) -> Any:
    call = Call("r", Dialect.OPENAI_RESPONSES, "m", body)
    return run(Stub(LoopClock()).generate(call))


def test_it_answers_responses() -> None:
    answer = respond(b'{"model":"m","instructions":"Be brief.","input":"Hello there"}')
    body = json.loads(answer.body)
    assert "Hello there" in body["output"][0]["content"][0]["text"]
    assert (body["status"], body["usage"]["input_tokens"]) == ("completed", 4)
    assert answer.facts.usage == Usage(4, body["usage"]["output_tokens"])


def test_it_cuts_responses_and_says_so() -> None:
    asked = (
        b'{"model":"m","input":[{"role":"user","content":[{"text":"Hi"}]}],"max_output_tokens":2}'
    )
    body = json.loads(respond(asked).body)
    assert (body["status"], body["usage"]["output_tokens"]) == ("incomplete", 2)
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    with pytest.raises(ProviderError):
        respond(b'{"model":"m","input":3}')


def test_it_streams_responses() -> None:
    async def main() -> list[Chunk]:
        call = Call("r", Dialect.OPENAI_RESPONSES, "m", b'{"model":"m","input":"Hello"}')
        stream = await Stub(LoopClock(), StubSettings(latency_s=1)).open(call)
        chunks = []
        while (chunk := await stream.read()) is not None:
            chunks.append(chunk)
        return chunks

    chunks = run(main())
    assert [chunk.terminal for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    events = [json.loads(chunk.body.split(b"data: ")[1]) for chunk in chunks]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    text = "".join(event.get("delta", "") for event in events)
    assert text == events[-1]["response"]["output"][0]["content"][0]["text"]
    assert events[-1]["type"] == "response.completed"
