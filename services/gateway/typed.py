"""The typed way in: `Generate` and `GenerateStream` as OpenAI chat completions, and back.

Stub users get typed messages; behind the door their calls take the same path as everybody's.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec

from services.common.errors import InvalidArgument
from services.gateway import openai
from services.gateway.calls import Ask
from services.gateway.events import RecordReference, Usage
from services.gateway.ports import Generation
from weaver.common.v1 import usage_pb2
from weaver.gateway.v1 import gateway_service_pb2 as pb

MAX_STOP_SEQUENCES = 4
_ROLES: Final[dict[int, str]] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
}


class _Text(msgspec.Struct):
    content: Any = None

    @property
    def text(self) -> str:
        """The text, of whatever shape a vendor gave it."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content if isinstance(self.content, list) else ()
        texts = (part.get("text") for part in parts if isinstance(part, dict))
        return "".join(text for text in texts if isinstance(text, str))


class _Choice(msgspec.Struct):
    message: _Text | None = None
    delta: _Text | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None


_COMPLETION: Final = msgspec.json.Decoder(_Completion)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def generate(default_model: str, body: bytes, most_output_tokens: int) -> Ask:
    """Read a serialised `GenerateRequest`.

    Raises:
        InvalidArgument: naming the field.
    """
    return _read(pb.GenerateRequest.FromString(body), default_model, most_output_tokens, {})


def generate_stream(default_model: str, body: bytes, most_output_tokens: int) -> Ask:
    """Read a serialised `GenerateStreamRequest`.

    Raises:
        InvalidArgument: naming the field.
    """
    request = pb.GenerateStreamRequest.FromString(body).request
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    return _read(request, default_model, most_output_tokens, streamed)


def _read(
    request: pb.GenerateRequest, default_model: str, most: int, more: dict[str, object]
) -> Ask:
    if not request.messages:
        raise InvalidArgument.of_field("messages", "must hold at least one message")
    messages = []
    for number, message in enumerate(request.messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidArgument.of_field(
                f"messages[{number}].role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT"
            )
        messages.append({"role": role, "content": message.text})
    if len(request.stop_sequences) > MAX_STOP_SEQUENCES:
        raise InvalidArgument.of_field(
            "stop_sequences", f"must hold at most {MAX_STOP_SEQUENCES} texts"
        )
    body: dict[str, object] = {"model": request.model or default_model, "messages": messages}
    if request.max_output_tokens:
        body["max_completion_tokens"] = request.max_output_tokens
    if request.HasField("temperature"):
        body["temperature"] = request.temperature
    if request.HasField("top_p"):
        body["top_p"] = request.top_p
    if request.stop_sequences:
        body["stop"] = list(request.stop_sequences)
    return openai.chat(msgspec.json.encode(body | more), most)


def answer_text(body: bytes) -> str:
    """Return the text of a whole chat completion; "" for one without text.

    The answer is recorded as completed by now, so an odd one is no error any more.
    """
    return next(_texts(body, "message"), "")


def text_deltas(events: bytes) -> Iterator[str]:
    """Yield the texts of chat completion events, past those that cannot be read."""
    for line in events.splitlines():
        if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
            yield from _texts(line[5:], "delta")


def _texts(body: bytes, field: Literal["message", "delta"]) -> Iterator[str]:
    """Yield the text of the first choice, if there is any."""
    try:
        choices = _COMPLETION.decode(body).choices or ()
    except _UNREADABLE:
        return
    for choice in choices[:1]:
        said: _Text | None = getattr(choice, field)
        if said is not None and (text := said.text):
            yield text


def response(
    text: str, generation: Generation, record: RecordReference | None, request_id: str
) -> pb.GenerateResponse:
    """Return the typed answer."""
    message = pb.GenerateResponse(
        text=text,
        finish_reason=generation.finish_reason,
        model=generation.model,
        provider=generation.provider,
        usage=usage_message(generation.usage),
        cost_micros=generation.cost_micros,
        request_id=request_id,
    )
    if record is not None:
        message.record.origin = record.origin
        message.record.index = record.index
    return message


def usage_message(usage: Usage) -> usage_pb2.Usage:
    """Return usage on the wire."""
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_input_tokens=usage.cache_write_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        estimated=usage.estimated,
    )
