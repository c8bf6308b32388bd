"""What the stub provider says: words and vectors that depend on the request alone."""

import base64
import struct
import zlib
from hashlib import shake_128
from typing import Any

import msgspec

from services.model.call import Answer, Call, Facts, Usage
from services.model.failure import ProviderError, rejected

MAX_CHOICES = 8
MAX_DIMENSIONS = 4096
DIMENSIONS = 8
_LEXICON = ("loom", "thread", "warp", "weft", "shuttle", "fabric", "spindle", "twill")
_ECHO_BYTES = 4096


class _StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None


class _Message(msgspec.Struct, gc=False):
    content: Any = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None


class _Response(msgspec.Struct):
    input: str | list[_Message] = ""
    instructions: str | None = None
    max_output_tokens: int | None = None


class _Embeddings(msgspec.Struct):
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


class Reply(msgspec.Struct, frozen=True):
    """What is said to a chat, before it is dressed as JSON.

    Args:
        words: their concatenation is the answer's text.
        finish_reason: `stop` or `length`.
        usage: a word is a token.
        choices: how many times it is said.
        tag: eight hexadecimal digits that depend on the prompt.
        stream_usage: whether a stream is to end with the usage.
    """

    words: list[str]
    finish_reason: str
    usage: Usage
    choices: int
    tag: bytes
    stream_usage: bool


_decode_chat = msgspec.json.Decoder(_Chat).decode
_decode_response = msgspec.json.Decoder(_Response).decode
_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode


def reply_to(body: bytes, length: int) -> Reply:
    """Return what is said to a chat.

    Args:
        body: the request.
        length: words of the answer, where the request asks for no fewer.

    Raises:
        ProviderError: the request makes no sense.
    """
    try:
        return _reply(_decode_chat(body), length)
    except msgspec.DecodeError as error:
        raise refused(param="messages", message=str(error)) from None


def respond_to(body: bytes, length: int) -> Reply:
    """Return what is said to a request for a response; the arguments are those of `reply_to`.

    Raises:
        ProviderError: the request makes no sense.
    """
    try:
        asked = _decode_response(body)
    except msgspec.DecodeError as error:
        raise refused(param="input", message=str(error)) from None
    given = asked.input
    messages = [_Message(asked.instructions)] if asked.instructions else []
    messages += [_Message(given)] if isinstance(given, str) else given
    return _reply(_Chat(messages, max_tokens=asked.max_output_tokens), length)


def _reply(asked: _Chat, length: int) -> Reply:
    choices = 1 if asked.n is None else asked.n
    if not 1 <= choices <= MAX_CHOICES:
        raise refused(param="n", message=f"n must lie between 1 and {MAX_CHOICES}.")
    texts = [_text(message.content) for message in asked.messages]
    tag = zlib.crc32("\n".join(texts).encode())
    words = _words(texts[-1] if texts else "", tag, length)
    limit = asked.max_completion_tokens or asked.max_tokens
    finish_reason = "stop"
    if limit is not None and limit < len(words):
        words, finish_reason = words[: max(0, limit)], "length"
    if asked.stop:
        text = "".join(words)
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop
        ends = [end for stop in stops if stop and (end := text.find(stop)) >= 0]
        if ends:
            words, finish_reason = _split(text[: min(ends)]), "stop"
    usage = Usage(sum(map(_count, texts)), len(words) * choices)
    stream_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return Reply(words, finish_reason, usage, choices, b"%08x" % tag, stream_usage)


def embed(call: Call) -> Answer:
    """Return small vectors of length 1; the same text always has the same one.

    Raises:
        ProviderError: the request makes no sense.
    """
    try:
        asked = _decode_embeddings(call.body)
    except msgspec.DecodeError as error:
        raise refused(param="input", message=str(error)) from None
    dimensions = DIMENSIONS if asked.dimensions is None else asked.dimensions
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise refused(
            param="dimensions", message=f"dimensions must lie between 1 and {MAX_DIMENSIONS}."
        )
    given = asked.input
    inputs: list[str | int | list[int]]
    if isinstance(given, str):
        inputs = [given]
    elif given and all(isinstance(item, int) for item in given):
        inputs = [[item for item in given if isinstance(item, int)]]
    else:
        inputs = given
    as_text = asked.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(item, dimensions, as_text)}
        for index, item in enumerate(inputs)
    ]
    tokens = sum(len(item) if isinstance(item, list) else _count(str(item)) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body = msgspec.json.encode(
        {"object": "list", "data": data, "model": call.model, "usage": usage}
    )
    return Answer(body, Facts(call.model, usage=Usage(tokens)))


def refused(param: str, message: str) -> ProviderError:
    """Return the refusal of a request, in OpenAI's shape."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    return rejected(400, msgspec.json.encode({"error": error}))


def _words(prompt: str, tag: int, length: int) -> list[str]:
    said = ["You", "said:", *prompt[:_ECHO_BYTES].split()[: max(1, length * 3 // 4 - 2)]]
    while len(said) < length:
        tag = (tag * 1103515245 + 12345) & 0x7FFFFFFF
        said.append(_LEXICON[(tag >> 16) % len(_LEXICON)])
    return [word if index == 0 else " " + word for index, word in enumerate(said[:length])]


def _split(text: str) -> list[str]:
    return [word if index == 0 else " " + word for index, word in enumerate(text.split(" "))]


def _text(content: Any) -> str:  # noqa: ANN401 - a string or a list of parts
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _count(text: str) -> int:
    return text.count(" ") + 1 if text else 0


def _vector(item: object, dimensions: int, as_text: bool) -> list[float] | str:  # noqa: FBT001
    digest = shake_128(repr(item).encode()).digest(dimensions)
    raw = [byte - 127.5 for byte in digest]
    norm = sum(number * number for number in raw) ** 0.5
    vector = [number / norm for number in raw]
    if as_text:
        return base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
    return vector
